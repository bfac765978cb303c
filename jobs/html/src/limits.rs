//! What one page may cost. A page is a few hundred KiB, a few ten thousand nodes, thirty levels; these limits are far above.

/// Most bytes of a page, as received and decompressed.
pub const MAX_BYTES: usize = 16 << 20;
/// Most levels of elements within each other. Browsers cut at 512.
pub const MAX_DEPTH: usize = 1_000;
/// Most nodes: elements, texts, comments.
pub const MAX_NODES: usize = 500_000;
/// Most words within one tag or comment: the parser compares every attribute of a tag with all before it.
pub const MAX_WORDS: usize = 30_000;
/// Most nodes that selectors look at, over all records and fields: records within records are looked at again and again.
pub const MAX_VISITS: u64 = 100_000_000;
/// Most bytes of all fields of all records.
pub const MAX_EXTRACTED: usize = 64 << 20;

/// A page that goes beyond a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooMuch {
    /// See [`MAX_DEPTH`].
    #[error("the page has elements nested more than {MAX_DEPTH} levels deep")]
    Depth,
    /// See [`MAX_NODES`].
    #[error("the page has more than {MAX_NODES} nodes")]
    Nodes,
    /// See [`MAX_WORDS`].
    #[error("the page has a tag or a comment with more than {MAX_WORDS} words")]
    Words,
    /// See [`MAX_VISITS`].
    #[error("the records of the page lie within each other so often that its selectors would look at more than {MAX_VISITS} nodes")]
    Visits,
    /// See [`MAX_EXTRACTED`].
    #[error("the fields of the page's records have more than {MAX_EXTRACTED} bytes")]
    Extracted,
}

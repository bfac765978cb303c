//! Parsing with an end: html5ever into a scraper tree, watched while it grows.
//!
//! Time and memory of the standard's algorithm are not linear in the page: it looks through all open elements for every tag, and opens
//! formatting elements again and again; and it compares the attributes of a tag with each other. So depth, nodes, and the words since anything
//! came out of the tokenizer, are checked after every KiB.

use std::{
    borrow::Cow,
    cell::{Cell, Ref},
};

use ego_tree::iter::Edge;
use html5ever::{
    Attribute, ParseOpts, QualName, parse_document,
    tendril::{StrTendril, TendrilSink},
    tree_builder::{ElementFlags, NodeOrText, QuirksMode, TreeBuilderOpts, TreeSink},
};
use scraper::{Html, HtmlTreeSink};

use crate::limits::{MAX_DEPTH, MAX_NODES, MAX_WORDS, TooMuch};

/// Bytes between two looks at what the tree has become.
const CHUNK: usize = 1 << 10;

type Handle = <HtmlTreeSink as TreeSink>::Handle;

/// The tree of `text`.
///
/// # Errors
/// [`TooMuch`] when it has too many nodes or levels.
pub(crate) fn parse(text: &str) -> Result<Html, TooMuch> {
    let options =
        ParseOpts { tree_builder: TreeBuilderOpts { scripting_enabled: false, ..TreeBuilderOpts::default() }, ..ParseOpts::default() };
    let mut parser = parse_document(Watched::new(), options);
    let mut words = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(rest.ceil_char_boundary(CHUNK));
        parser.process(StrTendril::from_slice(chunk));
        let watched = &parser.tokenizer.sink.sink;
        watched.check()?;
        words = if watched.touched.take() { 0 } else { words + chunk.bytes().filter(ends_word).count() };
        if words > MAX_WORDS {
            return Err(TooMuch::Words);
        }
        rest = after;
    }
    let html = parser.finish();
    // The end of the text can close and move elements once more.
    if html.tree.nodes().len() > MAX_NODES {
        return Err(TooMuch::Nodes);
    }
    let mut depth = 0;
    for edge in html.tree.root().traverse() {
        match edge {
            Edge::Open(_) => depth += 1,
            Edge::Close(_) => depth -= 1,
        }
        if depth > MAX_DEPTH + 1 {
            return Err(TooMuch::Depth);
        }
    }
    Ok(html)
}

/// Whether an attribute can end here.
fn ends_word(byte: &u8) -> bool {
    byte.is_ascii_whitespace() || matches!(byte, b'/' | b'"' | b'\'')
}

/// The tree that is being built.
struct Watched {
    tree: HtmlTreeSink,
    too_deep: Cell<bool>,
    /// The tree was looked at or changed, which every tag, text and comment does.
    touched: Cell<bool>,
    /// The last element that was put into the tree, its parent, and how many levels are above it; none since something was moved.
    last: Cell<Option<(Handle, Handle, usize)>>,
}

impl Watched {
    fn new() -> Self {
        Self { tree: HtmlTreeSink::new(Html::new_document()), too_deep: Cell::new(false), touched: Cell::new(false), last: Cell::new(None) }
    }

    fn check(&self) -> Result<(), TooMuch> {
        if self.too_deep.get() {
            return Err(TooMuch::Depth);
        }
        if self.tree.0.borrow().tree.nodes().len() > MAX_NODES {
            return Err(TooMuch::Nodes);
        }
        Ok(())
    }

    /// Looks how deep a child of `parent` is.
    fn measure(&self, parent: &Handle, child: &NodeOrText<Handle>) {
        let NodeOrText::AppendNode(child) = child else { return };
        // Mostly it is put into the last one, or beside it; else all levels are counted.
        let depth = match self.last.get() {
            Some((last, _, depth)) if last == *parent => depth + 1,
            Some((_, above, depth)) if above == *parent => depth,
            _ => self.tree.0.borrow().tree.get(*parent).map_or(0, |parent| parent.ancestors().take(MAX_DEPTH + 1).count() + 1),
        };
        self.last.set(Some((*child, *parent, depth)));
        self.too_deep.set(self.too_deep.get() || depth > MAX_DEPTH);
    }
}

impl TreeSink for Watched {
    type Handle = Handle;
    type Output = Html;
    type ElemName<'a> = Ref<'a, QualName>;

    fn finish(self) -> Html {
        self.tree.finish()
    }

    /// Wrong HTML is the rule, not an error.
    fn parse_error(&self, _: Cow<'static, str>) {}

    fn get_document(&self) -> Handle {
        self.tree.get_document()
    }

    fn elem_name<'a>(&'a self, target: &'a Handle) -> Ref<'a, QualName> {
        self.touched.set(true);
        self.tree.elem_name(target)
    }

    fn create_element(&self, name: QualName, attrs: Vec<Attribute>, flags: ElementFlags) -> Handle {
        self.touched.set(true);
        self.tree.create_element(name, attrs, flags)
    }

    fn create_comment(&self, text: StrTendril) -> Handle {
        self.touched.set(true);
        self.tree.create_comment(text)
    }

    fn create_pi(&self, target: StrTendril, data: StrTendril) -> Handle {
        self.tree.create_pi(target, data)
    }

    fn append(&self, parent: &Handle, child: NodeOrText<Handle>) {
        self.touched.set(true);
        self.measure(parent, &child);
        self.tree.append(parent, child);
    }

    fn append_based_on_parent_node(&self, element: &Handle, prev_element: &Handle, child: NodeOrText<Handle>) {
        self.measure(prev_element, &child);
        self.tree.append_based_on_parent_node(element, prev_element, child);
        self.last.set(None);
    }

    fn append_doctype_to_document(&self, name: StrTendril, public_id: StrTendril, system_id: StrTendril) {
        self.tree.append_doctype_to_document(name, public_id, system_id);
    }

    fn get_template_contents(&self, target: &Handle) -> Handle {
        self.tree.get_template_contents(target)
    }

    fn same_node(&self, x: &Handle, y: &Handle) -> bool {
        self.tree.same_node(x, y)
    }

    fn set_quirks_mode(&self, mode: QuirksMode) {
        self.tree.set_quirks_mode(mode);
    }

    fn append_before_sibling(&self, sibling: &Handle, new_node: NodeOrText<Handle>) {
        self.measure(sibling, &new_node);
        self.tree.append_before_sibling(sibling, new_node);
        self.last.set(None);
    }

    fn add_attrs_if_missing(&self, target: &Handle, attrs: Vec<Attribute>) {
        self.tree.add_attrs_if_missing(target, attrs);
    }

    fn remove_from_parent(&self, target: &Handle) {
        self.last.set(None);
        self.tree.remove_from_parent(target);
    }

    fn reparent_children(&self, node: &Handle, new_parent: &Handle) {
        self.last.set(None);
        self.tree.reparent_children(node, new_parent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(tag: &str, levels: usize) -> String {
        format!("<{tag}>").repeat(levels)
    }

    fn fault(text: &str) -> Option<TooMuch> {
        parse(text).err()
    }

    #[test]
    fn depth_has_an_end_and_what_is_below_it_is_parsed() {
        // html and body are levels too.
        assert_eq!(fault(&nested("div", MAX_DEPTH - 2)), None);
        assert_eq!(fault(&nested("div", MAX_DEPTH)), Some(TooMuch::Depth));
        assert_eq!(fault(&nested("div", 1_000_000)), Some(TooMuch::Depth));
        assert_eq!(fault(&nested("b", 100_000)), Some(TooMuch::Depth));
        // Elements that are thrown out of a table are siblings, however many.
        assert_eq!(fault(&nested("table", 20_000)), None);
        assert_eq!(fault(&"<div></div>".repeat(50_000)), None);
    }

    #[test]
    fn formatting_that_is_opened_again_and_again_ends_with_the_nodes() {
        let fonts: String = (0..MAX_DEPTH - 10).map(|n| format!("<font size={n}>")).collect();
        let page = format!("<p>{fonts}{}", "<p>x".repeat(100_000));
        assert_eq!(fault(&page), Some(TooMuch::Nodes));
    }

    #[test]
    fn one_tag_has_an_end_but_text_scripts_and_pictures_may_be_long() {
        let attributes: String = (0..50_000).map(|n| format!("a{n}/")).collect();
        assert_eq!(fault(&format!("<b {attributes}>")), Some(TooMuch::Words));
        assert_eq!(fault(&format!("<script>{attributes}</script>{attributes}")), None);
        assert_eq!(fault(&format!("<img src='data:image/png;base64,{}'>", "AbC+/0".repeat(25_000))), None);
        assert_eq!(fault(&"<b a=1 b=2 c>x</b>".repeat(50_000)), None);
    }

    #[test]
    fn what_needs_no_script_is_part_of_the_page() {
        let html = parse("<noscript><img id=a></noscript><img>").unwrap();
        assert_eq!(html.select(&scraper::Selector::parse("img").unwrap()).count(), 2);
    }
}

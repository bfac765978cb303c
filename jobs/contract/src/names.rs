//! What names and labels of resources have in common, whoever makes them: the operator or a client of the cluster.

/// Label: name of the pipeline.
pub const PIPELINE_LABEL: &str = "lakehouse.rs/pipeline";

/// Label of a run: name of the backfill that it belongs to.
pub const BACKFILL_LABEL: &str = "lakehouse.rs/backfill";

/// Longest name of a run, and of a Job (whose pods carry it as a label), in bytes.
pub const LONGEST: usize = 63;

/// `text` cut to `most` bytes, without a separator at its end. Names are ASCII.
pub fn cut(text: &str, most: usize) -> &str {
    text.get(..most).unwrap_or(text).trim_end_matches(['-', '.'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_name_ends_with_a_letter() {
        assert_eq!(cut("crypto", 10), "crypto");
        assert_eq!(cut("crypto-daily", 6), "crypto");
        assert_eq!(cut("crypto-daily", 7), "crypto");
        assert_eq!(cut("a.-b", 3), "a");
    }
}

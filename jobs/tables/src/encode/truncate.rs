//! Bounds of pages that stay short: the column index of a file with long texts would hold them twice per page otherwise.

/// A text that is no greater than `text`, of at most `length` bytes and cut between characters.
pub(super) fn lower(text: &str, length: usize) -> &str {
    &text[..text.floor_char_boundary(length)]
}

/// A text that is no less than `text`, of at most `length` bytes: cut, with its last character that has a successor of the same
/// width replaced by that. The whole text when there is none.
pub(super) fn upper(text: &str, length: usize) -> String {
    if text.len() <= length {
        return text.to_owned();
    }
    let cut = lower(text, length);
    for (at, character) in cut.char_indices().rev() {
        let next = char::from_u32(character as u32 + 1).filter(|next| next.len_utf8() == character.len_utf8());
        if let Some(next) = next {
            let mut bound = cut[..at].to_owned();
            bound.push(next);
            return bound;
        }
    }
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bounds_hold_their_text(text in "\\PC{0,12}|[a\u{7f}\u{7ff}\u{ffff}\u{10ffff}]{0,12}", length in 1_usize..16) {
            let (least, greatest) = (lower(&text, length), upper(&text, length));
            prop_assert!(least <= text.as_str() && text.as_str() <= greatest.as_str());
            prop_assert!(least.len() <= length && (greatest.len() <= length || greatest == text));
        }
    }

    #[test]
    fn a_cut_bound_ends_in_the_next_character() {
        assert_eq!(upper("abcdef", 3), "abd");
        assert_eq!(upper("ab\u{7f}d", 3), "ac");
        assert_eq!(upper("\u{10ffff}\u{10ffff}", 4), "\u{10ffff}\u{10ffff}");
    }
}

//! A page without some of its records: what is left of a stored page when a key is erased.
//!
//! HTML that was parsed cannot be written back byte for byte. So the tree is written anew without the records, and whoever cuts makes sure that the new page
//! gives the other records as before.

use std::collections::HashSet;

use ego_tree::NodeId;
use encoding_rs::Encoding;
use scraper::{ElementRef, Node};

use crate::{Page, Rules};

impl Page {
    /// The markup of every record, in the order of [`Page::document`].
    pub fn markup(&self, rules: &Rules) -> Vec<String> {
        self.html.select(&rules.records).map(|record| record.html()).collect()
    }

    /// Takes out the records for which `goes` is true, and puts what `scrub` gives in the place of texts, comments and values of attributes outside
    /// of the records that stay. Answers the page in its own encoding; none where that cannot be written (UTF-16).
    pub fn without(mut self, rules: &Rules, goes: &[bool], scrub: impl Fn(&str) -> Option<String>) -> Option<Vec<u8>> {
        let records: Vec<NodeId> = self.html.select(&rules.records).map(|record| record.id()).collect();
        for (record, _) in records.iter().zip(goes).filter(|(_, goes)| **goes) {
            if let Some(mut node) = self.html.tree.get_mut(*record) {
                node.detach();
            }
        }
        let staying: HashSet<NodeId> = records.iter().zip(goes).filter(|(_, goes)| !**goes).map(|(record, _)| *record).collect();
        // Nodes outside of the records, in one walk: records may lie within each other.
        let mut outside = Vec::new();
        let mut waiting = vec![self.html.tree.root()];
        while let Some(node) = waiting.pop() {
            if !staying.contains(&node.id()) {
                outside.push(node.id());
                waiting.extend(node.children());
            }
        }
        for id in outside {
            let Some(mut node) = self.html.tree.get_mut(id) else { continue };
            match node.value() {
                Node::Text(text) => {
                    if let Some(new) = scrub(&text.text) {
                        text.text = new.as_str().into();
                    }
                }
                Node::Comment(comment) => {
                    if let Some(new) = scrub(&comment.comment) {
                        comment.comment = new.as_str().into();
                    }
                }
                Node::Element(element) => {
                    for (_, value) in &mut element.attrs {
                        if let Some(new) = scrub(value) {
                            *value = new.as_str().into();
                        }
                    }
                }
                _ => {}
            }
        }
        let encoding = Encoding::for_label(self.charset.as_bytes())?;
        let text = self.html.html();
        // What the encoding does not have becomes a reference to the character.
        let (bytes, used, _) = encoding.encode(&text);
        (used == encoding).then(|| bytes.into_owned())
    }

    /// Which records go when those do for which `goes` is true: they, and the records within them.
    pub fn with_inner(&self, rules: &Rules, goes: &[bool]) -> Vec<bool> {
        let records: Vec<ElementRef<'_>> = self.html.select(&rules.records).collect();
        let going: HashSet<NodeId> = records.iter().zip(goes).filter(|(_, goes)| **goes).map(|(record, _)| record.id()).collect();
        let within = |record: &ElementRef<'_>| record.ancestors().any(|node| going.contains(&node.id()));
        records.iter().zip(goes).map(|(record, goes)| *goes || within(record)).collect()
    }
}

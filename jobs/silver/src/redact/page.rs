//! Pages without the records of a key.

use std::collections::BTreeMap;

use lakehouse_api::pipeline::ScrapeField;
use lakehouse_html::{Page, Rules};

use super::{
    BYTE_ORDER_MARK, Found, Redaction,
    words::{mentions, replaced},
};
use crate::{
    json::{
        elements,
        record::{Pointers, Reader},
        value::Value,
    },
    pages,
};

impl Redaction {
    /// A page is written anew without the records, and without the value outside of records. It counts when it gives the other records as before.
    pub(super) fn page(
        &self,
        bytes: &[u8],
        metadata: &BTreeMap<String, String>,
        records: &str,
        fields: &[ScrapeField],
    ) -> Result<Found, String> {
        let rules = Rules::new(records, fields).map_err(|error| error.to_string())?;
        let parse = |bytes: &[u8]| {
            let url = metadata.get("url").and_then(|url| url.parse().ok());
            Page::parse(bytes, metadata.get("content-type").map(String::as_str), url)
        };
        let whole = |reason: String| match self.mentions(bytes) {
            true => Found::Whole { records: 1, others: 0, reason },
            false => Found::Nothing,
        };
        if bytes.len() as u64 > pages::LARGEST {
            return Ok(whole(format!("it has more than {} bytes", pages::LARGEST)));
        }
        let (page, document) = match parse(bytes).and_then(|page| page.document(&rules).map(|document| (page, document))) {
            Ok(read) => read,
            Err(error) => return Ok(whole(error.to_string())),
        };
        let (head, found) = self.records_of(&document)?;
        let markup = page.markup(&rules);
        let fields: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
        // A field of the source says whose record it is; where there is none, the whole of the record does.
        let unnamed: Vec<&str> =
            self.columns.iter().filter(|(name, _)| !fields.contains(&name.as_str())).map(|(_, value)| value.as_str()).collect();
        let goes =
            |(record, markup): (&&str, &String)| self.record(record) || unnamed.iter().any(|value| mentions(markup.as_bytes(), value));
        let goes = page.with_inner(&rules, &found.iter().zip(&markup).map(goes).collect::<Vec<bool>>());
        let gone = goes.iter().filter(|goes| **goes).count() as u64;
        let all = found.len() as u64;
        let own = page_values(&self.around, &head);
        if own || (gone > 0 && gone == all) {
            return Ok(Found::All { records: all });
        }
        let outside = std::cell::Cell::new(false);
        let scrub = |text: &str| {
            let new = self.scrubbed(text)?;
            outside.set(true);
            Some(new)
        };
        let new = page.without(&rules, &goes, scrub);
        if gone == 0 && !outside.get() {
            return Ok(Found::Nothing);
        }
        let expected: Vec<&str> = found.iter().zip(&goes).filter(|(_, goes)| !**goes).map(|(record, _)| *record).collect();
        let content = new.map(|new| if bytes.starts_with(BYTE_ORDER_MARK) { [BYTE_ORDER_MARK, &new].concat() } else { new });
        let same = content.filter(|content| {
            let read = parse(content).and_then(|page| page.document(&rules)).ok();
            read.is_some_and(|document| self.records_of(&document).is_ok_and(|again| again == (head.clone(), expected.clone())))
        });
        Ok(match same {
            Some(content) => Found::Some { content, records: gone },
            None => {
                let reason = "written anew without them, the page would not give its other records as before".to_owned();
                Found::Whole { records: gone, others: all - gone, reason }
            }
        })
    }

    /// What a page says of itself, and its records, from the document that was made of it.
    fn records_of<'d>(&self, document: &'d str) -> Result<(Vec<Option<String>>, Vec<&'d str>), String> {
        let mut pointers = Pointers::default();
        let slots = [pointers.add(pages::RECORDS)?, pointers.add("/url")?, pointers.add("/charset")?];
        let mut values = vec![Value::Missing; pointers.len()];
        Reader::new(&pointers).read(document, &mut values).map_err(|_| "its records cannot be read".to_owned())?;
        let text = |slot: usize| match values[slot] {
            Value::Text(text) | Value::Escaped(text) => Some(text.to_owned()),
            _ => None,
        };
        let head = vec![text(slots[1]), text(slots[2])];
        let Value::Container(array) = values[slots[0]] else { return Err("its records cannot be read".to_owned()) };
        Ok((head, elements(array).map_err(|_| "its records cannot be read".to_owned())?))
    }

    /// A text without the values, where one of them stands in it as a word.
    fn scrubbed(&self, text: &str) -> Option<String> {
        let mut new = text.to_owned();
        for (_, value) in self.fields.iter().chain(&self.around) {
            new = replaced(&new, value);
        }
        (new != text).then_some(new)
    }
}

/// Whether what a page says of itself, its URL and encoding, is a value that goes.
fn page_values(around: &[(usize, String)], head: &[Option<String>]) -> bool {
    around.iter().any(|(_, value)| head.iter().flatten().any(|own| own == value))
}

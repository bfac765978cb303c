//! Fields that no column takes: left out, kept as a JSON object, or the end of the stage.

use std::{borrow::Cow, collections::HashMap};

use lakehouse_contract::StageFailure;

use crate::{
    json::{
        record::{self, Reader},
        value::Value,
    },
    rows::RowBuilder,
    schema::Unknown,
};

/// The unknown fields of one record after the other.
pub(super) struct Collector {
    policy: Unknown,
    text: String,
}

impl Collector {
    pub(super) fn new(policy: Unknown) -> Self {
        Self { policy, text: String::new() }
    }

    /// A reader of records that notes what this needs.
    pub(super) fn reader<'p>(&self, pointers: &'p record::Pointers) -> Reader<'p> {
        match self.policy {
            Unknown::Ignore => Reader::new(pointers),
            Unknown::Capture | Unknown::Fail => Reader::watching(pointers),
        }
    }

    /// The object of the unknown fields of the record that `reader` has just read from `text`; nothing when there are none.
    ///
    /// Of fields with the same name the last counts, as for known ones.
    ///
    /// # Errors
    /// `SchemaMismatch` at the first one, where that is the rule.
    #[inline]
    pub(super) fn of_record(&mut self, reader: &Reader<'_>, text: &str, builder: &RowBuilder<'_>) -> Result<Value<'_>, StageFailure> {
        if reader.unknown().is_empty() {
            return Ok(Value::Missing);
        }
        let key = |field: &record::Unknown| text.get(field.key.clone()).unwrap_or_default();
        let fields = reader.unknown();
        if self.policy == Unknown::Fail {
            return Err(builder.unknown_field(fields.first().map(key).unwrap_or_default()));
        }
        self.text.clear();
        // Looked up: a record may have a million fields.
        let last: HashMap<&str, usize> = fields.iter().enumerate().map(|(index, field)| (key(field), index)).collect();
        for (index, field) in fields.iter().enumerate() {
            let name = key(field);
            if last.get(name) != Some(&index) {
                continue;
            }
            self.text.push_str(if self.text.is_empty() { "{\"" } else { ",\"" });
            self.text.push_str(name);
            self.text.push_str("\":");
            self.text.push_str(text.get(field.value.clone()).unwrap_or_default());
        }
        self.text.push('}');
        Ok(Value::Container(&self.text))
    }

    /// The object of named texts, such as the fields of a CSV record; nothing when all are null. `names` are those of all unknown fields.
    ///
    /// # Errors
    /// `SchemaMismatch` for any name, where that is the rule.
    pub(super) fn of_fields<'a>(
        &mut self,
        names: &[(usize, String)],
        value: impl Fn(usize) -> Option<Cow<'a, str>>,
        builder: &RowBuilder<'_>,
    ) -> Result<Value<'_>, StageFailure> {
        match (self.policy, names.first()) {
            (Unknown::Ignore, _) | (_, None) => return Ok(Value::Missing),
            (Unknown::Fail, Some((_, name))) => return Err(builder.unknown_field(name)),
            (Unknown::Capture, Some(_)) => {}
        }
        self.text.clear();
        for (index, name) in names {
            let Some(value) = value(*index) else { continue };
            self.text.push_str(if self.text.is_empty() { "{" } else { "," });
            self.text.push_str(&serde_json::Value::from(name.as_str()).to_string());
            self.text.push(':');
            self.text.push_str(&serde_json::Value::from(value.as_ref()).to_string());
        }
        if self.text.is_empty() {
            return Ok(Value::Null);
        }
        self.text.push('}');
        Ok(Value::Container(&self.text))
    }
}

//! JSON records to values, driven by the pointers that a table declares: what no column asks for is skipped, not built.
//!
//! The pointers form a tree. Records of one source mostly have the same keys in the same order, so every node remembers
//! what stood between two values: comma, key and colon, and the white space around them. Where the next record has the very same bytes there
//! they are as right as they were, and nothing has to be taken apart. A record of nothing but such bytes and texts and numbers between them is
//! read in one go ([`Reader::usual`]), without looking for the end of its line first.
//! Of keys that occur twice in an object the last wins.

use std::ops::Range;

use super::{
    pointer,
    scan::{Malformed, Open, Scanner},
    value::Value,
};

/// Most keys of one object whose order is remembered.
const REMEMBERED: usize = 256;

/// The node of the record itself.
const ROOT: usize = 0;

/// The pointers to read from a record; slot n holds the value of the n-th distinct pointer.
#[derive(Clone, Debug)]
pub(crate) struct Pointers {
    nodes: Vec<Node>,
    texts: Vec<String>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    children: Vec<(String, usize)>,
    slot: Option<usize>,
    /// Slots of all nodes below this one.
    below: Vec<usize>,
}

impl Default for Pointers {
    fn default() -> Self {
        Self { nodes: vec![Node::default()], texts: Vec::new() }
    }
}

impl Pointers {
    /// Adds a pointer and gives its slot.
    ///
    /// # Errors
    /// A text when `text` is no JSON Pointer.
    pub(crate) fn add(&mut self, text: &str) -> Result<usize, String> {
        if let Some(slot) = self.texts.iter().position(|known| known == text) {
            return Ok(slot);
        }
        let slot = self.texts.len();
        let mut path = vec![0];
        let mut at = 0;
        for token in pointer::tokens(text)? {
            at = match self.nodes[at].children.iter().find(|(key, _)| *key == token) {
                Some((_, child)) => *child,
                None => {
                    self.nodes.push(Node::default());
                    let child = self.nodes.len() - 1;
                    self.nodes[at].children.push((token, child));
                    child
                }
            };
            path.push(at);
        }
        self.nodes[at].slot = Some(slot);
        path.pop();
        for node in path {
            self.nodes[node].below.push(slot);
        }
        self.texts.push(text.to_owned());
        Ok(slot)
    }

    /// Whether a pointer goes through the field `name` of a record.
    pub(crate) fn names(&self, name: &str) -> bool {
        self.nodes[ROOT].children.iter().any(|(key, _)| key == name)
    }

    /// Number of slots.
    pub(crate) fn len(&self) -> usize {
        self.texts.len()
    }

    /// The pointers, by slot.
    pub(crate) fn texts(&self) -> &[String] {
        &self.texts
    }
}

/// Reads records of one source; keeps what it learned about them.
#[derive(Debug)]
pub(crate) struct Reader<'p> {
    pointers: &'p Pointers,
    /// Per node: the keys in the order of the last record.
    orders: Vec<Vec<Remembered>>,
    open: Vec<Open>,
    /// Whether fields that no pointer goes through are noted.
    watching: bool,
    unknown: Vec<Unknown>,
}

/// The child that a key leads to, and the inside of its quotes.
type Field = (Option<usize>, Range<usize>);

/// A field of a record that no pointer goes through, by its place in the record's text.
#[derive(Clone, Debug)]
pub(crate) struct Unknown {
    /// The inside of the key's quotes, escapes and all.
    pub(crate) key: Range<usize>,
    /// The JSON text of the value.
    pub(crate) value: Range<usize>,
}

/// What stood between two values of an object, from behind the one to before the other.
#[derive(Clone, Debug)]
struct Remembered {
    glue: Box<[u8]>,
    /// The first bytes of `glue` as a number, and which of its bits count.
    word: u128,
    mask: u128,
    /// The inside of the key's quotes.
    key: Range<usize>,
    child: Option<usize>,
    leaf: Leaf,
}

/// What becomes of a value that is neither array nor object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaf {
    /// It goes to this slot, and nothing is asked for below it.
    Slot(usize),
    /// Nothing.
    Skipped,
    /// More than that.
    Other,
}

impl Remembered {
    fn new(glue: &[u8], key: Range<usize>, child: Option<usize>, leaf: Leaf) -> Self {
        let mut first = [0; WORD];
        let length = glue.len().min(WORD);
        first[..length].copy_from_slice(&glue[..length]);
        let mask = if length == WORD { u128::MAX } else { (1 << (8 * length)) - 1 };
        Self { glue: glue.into(), word: u128::from_le_bytes(first), mask, key, child, leaf }
    }

    /// Whether `rest` begins with the glue.
    #[inline]
    fn leads(&self, rest: &[u8]) -> bool {
        match rest.first_chunk::<WORD>() {
            Some(first) if self.glue.len() <= WORD => (u128::from_le_bytes(*first) ^ self.word) & self.mask == 0,
            _ => rest.starts_with(&self.glue),
        }
    }
}

/// Bytes that are compared at once.
const WORD: usize = 16;

impl<'p> Reader<'p> {
    pub(crate) fn new(pointers: &'p Pointers) -> Self {
        Self { pointers, orders: vec![Vec::new(); pointers.nodes.len()], open: Vec::new(), watching: false, unknown: Vec::new() }
    }

    /// A reader that notes the fields of each record that no pointer goes through.
    pub(crate) fn watching(pointers: &'p Pointers) -> Self {
        Self { watching: true, ..Self::new(pointers) }
    }

    /// These fields of the last record, in its order.
    pub(crate) fn unknown(&self) -> &[Unknown] {
        &self.unknown
    }

    /// Reads the record that begins at `start` of `text`, if it is like those before it: the very same keys, maybe fewer at the end, with texts,
    /// numbers and literals. Gives the offset behind it. The record is on one line.
    ///
    /// None says nothing about the record: [`Self::read`] does.
    #[inline]
    pub(crate) fn usual<'a>(&mut self, text: &'a str, start: usize, slots: &mut [Value<'a>]) -> Option<usize> {
        let order = &self.orders[ROOT];
        let mut scanner = Scanner::from(text, start);
        if order.is_empty() || scanner.peek() != b'{' {
            return None;
        }
        slots.fill(Value::Missing);
        self.unknown.clear();
        scanner.at += 1;
        leaves(order, &mut scanner, slots).ok()?;
        while matches!(scanner.peek(), b' ' | b'\t') {
            scanner.at += 1;
        }
        (scanner.peek() == b'}').then_some(scanner.at + 1)
    }

    /// Reads one JSON document into `slots`, whose length is that of the pointers. The scanned text must hold nothing else.
    pub(crate) fn read<'a>(&mut self, text: &'a str, slots: &mut [Value<'a>]) -> Result<(), Malformed> {
        slots.fill(Value::Missing);
        self.unknown.clear();
        let mut scanner = Scanner::new(text);
        self.value(ROOT, &mut scanner, slots)?;
        scanner.end()
    }

    #[inline]
    fn value<'a>(&mut self, at: usize, scanner: &mut Scanner<'a>, slots: &mut [Value<'a>]) -> Result<(), Malformed> {
        let pointers = self.pointers;
        let node = &pointers.nodes[at];
        // A key that occurs again replaces the earlier one with all that was below it.
        for below in &node.below {
            slots[*below] = Value::Missing;
        }
        let value = match scalar(scanner)? {
            Some(value) => value,
            None => self.container(at, scanner, slots)?,
        };
        if let Some(slot) = node.slot {
            slots[slot] = value;
        }
        Ok(())
    }

    /// An array or object, which begins here. Apart from [`Self::value`], so that what most values are is worked off where it is met.
    #[inline(never)]
    fn container<'a>(&mut self, at: usize, scanner: &mut Scanner<'a>, slots: &mut [Value<'a>]) -> Result<Value<'a>, Malformed> {
        let (node, start) = (&self.pointers.nodes[at], scanner.at);
        match scanner.peek() {
            b'{' if !node.children.is_empty() || (self.watching && at == ROOT) => {
                scanner.at += 1;
                self.object(at, scanner, slots)?;
            }
            b'[' if !node.children.is_empty() => {
                scanner.at += 1;
                self.array(at, scanner, slots)?;
            }
            _ => scanner.skip(&mut self.open)?,
        }
        Ok(Value::Container(scanner.since(start)))
    }

    fn object<'a>(&mut self, at: usize, scanner: &mut Scanner<'a>, slots: &mut [Value<'a>]) -> Result<(), Malformed> {
        if scanner.space() == b'}' {
            scanner.at += 1;
            return Ok(());
        }
        let mut position = 0;
        loop {
            position += leaves(self.orders[at].get(position..).unwrap_or_default(), scanner, slots)?;
            let Some((child, key)) = self.field(at, position, scanner)? else { break };
            position += 1;
            match child {
                Some(child) => self.value(child, scanner, slots)?,
                None if self.watching && at == ROOT => {
                    scanner.space();
                    let start = scanner.at;
                    scanner.skip(&mut self.open)?;
                    self.unknown.push(Unknown { key, value: start..scanner.at });
                }
                None => scanner.skip(&mut self.open)?,
            }
        }
        Ok(())
    }

    /// The child that the next key leads to, and where that key stands; none at the end of the object. Ends before the value.
    #[inline]
    fn field(&mut self, at: usize, position: usize, scanner: &mut Scanner<'_>) -> Result<Option<Field>, Malformed> {
        let start = scanner.at;
        if let Some(remembered) = self.orders[at].get(position)
            && remembered.leads(scanner.rest())
        {
            scanner.at += remembered.glue.len();
            return Ok(Some((remembered.child, start + remembered.key.start..start + remembered.key.end)));
        }
        if position > 0 {
            match scanner.space() {
                b',' => scanner.at += 1,
                b'}' => {
                    scanner.at += 1;
                    return Ok(None);
                }
                _ => return Err(scanner.expected("`,` or `}`")),
            }
        }
        self.unknown_key(at, position, start, scanner).map(Some)
    }

    /// As [`Self::field`] for a key that stands elsewhere than in the record before. `start` is behind the value before it.
    #[cold]
    fn unknown_key(&mut self, at: usize, position: usize, start: usize, scanner: &mut Scanner<'_>) -> Result<Field, Malformed> {
        scanner.take(b'"', "a key in quotes")?;
        let key_start = scanner.at;
        let (raw, escaped) = scanner.string()?;
        let key = key_start..scanner.at - 1;
        scanner.take(b':', "`:`")?;
        scanner.space();
        let children = &self.pointers.nodes[at].children;
        let child = |key: &str| children.iter().find(|(name, _)| name == key).map(|(_, child)| *child);
        if escaped {
            let mut text = String::new();
            // A key with half a surrogate pair is a key that no pointer can name.
            return Ok((super::text::unescape(raw, &mut text).ok().and_then(|()| child(&text)), key));
        }
        let child = child(raw);
        let order = &mut self.orders[at];
        if position < REMEMBERED {
            let within = key.start - start..key.end - start;
            let leaf = match child.map(|child| &self.pointers.nodes[child]) {
                Some(Node { slot: Some(slot), below, .. }) if below.is_empty() => Leaf::Slot(*slot),
                None if !(self.watching && at == ROOT) => Leaf::Skipped,
                _ => Leaf::Other,
            };
            let remembered = Remembered::new(scanner.since(start).as_bytes(), within, child, leaf);
            if position < order.len() {
                order[position] = remembered;
            } else if position == order.len() {
                order.push(remembered);
            }
        }
        Ok((child, key))
    }

    fn array<'a>(&mut self, at: usize, scanner: &mut Scanner<'a>, slots: &mut [Value<'a>]) -> Result<(), Malformed> {
        if scanner.space() == b']' {
            scanner.at += 1;
            return Ok(());
        }
        let pointers = self.pointers;
        for index in 0_usize.. {
            let name = index.to_string();
            match pointers.nodes[at].children.iter().find(|(key, _)| *key == name) {
                Some((_, child)) => self.value(*child, scanner, slots)?,
                None => scanner.skip(&mut self.open)?,
            }
            match scanner.space() {
                b',' => scanner.at += 1,
                b']' => break,
                _ => return Err(scanner.expected("`,` or `]`")),
            }
        }
        scanner.at += 1;
        Ok(())
    }
}

/// Reads fields that are like those of the record before, as long as their values are texts, numbers or literals, and gives their number.
/// The scanner stands behind the last of them. No white space is passed but what `order` has.
#[inline]
fn leaves<'a>(order: &[Remembered], scanner: &mut Scanner<'a>, slots: &mut [Value<'a>]) -> Result<usize, Malformed> {
    // A copy, for which no memory is written.
    let mut ahead = scanner.clone();
    let mut read = 0;
    for remembered in order {
        if remembered.leaf == Leaf::Other || !remembered.leads(ahead.rest()) {
            break;
        }
        ahead.at += remembered.glue.len();
        let value = match ahead.peek() {
            b'"' => {
                ahead.at += 1;
                match ahead.string()? {
                    (text, false) => Value::Text(text),
                    (text, true) => Value::Escaped(text),
                }
            }
            b'-' | b'0'..=b'9' => Value::Number(ahead.number()?),
            b't' | b'f' | b'n' => match scalar(&mut ahead)? {
                Some(value) => value,
                None => break,
            },
            _ => break,
        };
        if let Leaf::Slot(slot) = remembered.leaf {
            slots[slot] = value;
        }
        scanner.at = ahead.at;
        read += 1;
    }
    Ok(read)
}

/// The next value, if it is neither array nor object; else none, and the scanner stands before it.
#[inline]
fn scalar<'a>(scanner: &mut Scanner<'a>) -> Result<Option<Value<'a>>, Malformed> {
    Ok(Some(match scanner.space() {
        b'"' => {
            scanner.at += 1;
            match scanner.string()? {
                (text, false) => Value::Text(text),
                (text, true) => Value::Escaped(text),
            }
        }
        b'-' | b'0'..=b'9' => Value::Number(scanner.number()?),
        b'{' | b'[' => return Ok(None),
        b't' => {
            scanner.literal("true")?;
            Value::Bool(true)
        }
        b'f' => {
            scanner.literal("false")?;
            Value::Bool(false)
        }
        b'n' => {
            scanner.literal("null")?;
            Value::Null
        }
        _ => return Err(scanner.expected("a JSON value")),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<'a>(pointers: &[&str], text: &'a str) -> Result<Vec<Value<'a>>, Malformed> {
        let mut compiled = Pointers::default();
        for pointer in pointers {
            compiled.add(pointer).unwrap();
        }
        let mut slots = vec![Value::Missing; compiled.len()];
        Reader::new(&compiled).read(text, &mut slots)?;
        Ok(slots)
    }

    #[test]
    fn pointers_reach_fields_elements_and_containers() {
        let text = r#" {"a":{"b":[10,{"c":"x"}],"z/":1e2},"s":"q\"","n":null,"t":true} "#;
        let slots = read(&["/a/b/1/c", "/a/b/0", "/a/z~1", "/s", "/n", "/t", "/nope", "/a/b", "/s/x"], text).unwrap();
        assert_eq!(
            slots,
            [
                Value::Text("x"),
                Value::Number("10"),
                Value::Number("1e2"),
                Value::Escaped("q\\\""),
                Value::Null,
                Value::Bool(true),
                Value::Missing,
                Value::Container(r#"[10,{"c":"x"}]"#),
                Value::Missing,
            ]
        );
    }

    #[test]
    fn the_last_of_equal_keys_wins_with_all_below_it() {
        assert_eq!(read(&["/a"], r#"{"a":1,"b":0,"a":2}"#).unwrap(), [Value::Number("2")]);
        assert_eq!(read(&["/a/x"], r#"{"a":{"x":1},"a":5}"#).unwrap(), [Value::Missing]);
        assert_eq!(read(&["/a/x"], r#"{"a":{"x":1},"\u0061":{"y":2}}"#).unwrap(), [Value::Missing]);
    }

    #[test]
    fn a_remembered_order_never_decides_wrongly() {
        let mut pointers = Pointers::default();
        let (a, b) = (pointers.add("/a").unwrap(), pointers.add("/ab").unwrap());
        let mut reader = Reader::new(&pointers);
        let mut slots = [Value::Missing; 2];
        let texts = [
            r#"{"a":1,"ab":2}"#,
            r#"{"ab":2,"a":1}"#,
            r#"{"x":0,"a":1,"ab":2}"#,
            r#"{"a" :1, "ab":2,"z":[{}]}"#,
            r#"{"a" :1, "ab":2,"z":[{}]}"#,
            r#"{"a" :1, "ab":2}"#,
            r#"{ "a":1,"a key that is longer than a word":{"ab":3},"ab":2}"#,
            r#"{ "a":1,"a key that is longer than a word":{"ab":3},"ab":2 }"#,
        ];
        for text in texts {
            reader.read(text, &mut slots).unwrap();
            assert_eq!((slots[a], slots[b]), (Value::Number("1"), Value::Number("2")), "{text}");
        }
        reader.read(r#"{"a":3}"#, &mut slots).unwrap();
        assert_eq!(slots, [Value::Number("3"), Value::Missing]);
        for broken in [r#"{,"a":1}"#, r#"{"a":1"ab":2}"#, r#"{"a":1,,"ab":2}"#, r#"{"a":1,"ab":2"#, r#"{"a":1,"ab":}"#, r#"{"a":1,"ab"}"#] {
            assert!(reader.read(broken, &mut slots).is_err(), "{broken}");
        }
    }

    #[test]
    fn fields_without_a_pointer_are_noted() {
        let mut pointers = Pointers::default();
        pointers.add("/a/b").unwrap();
        let mut reader = Reader::watching(&pointers);
        let mut slots = [Value::Missing];
        let text = r#"{"a":{"b":1,"c":2}, "x" : [1, {"y":2}] ,"\u0061":3,"z":null}"#;
        reader.read(text, &mut slots).unwrap();
        let noted: Vec<_> = reader.unknown().iter().map(|field| (&text[field.key.clone()], &text[field.value.clone()])).collect();
        assert_eq!(noted, [("x", r#"[1, {"y":2}]"#), ("z", "null")]);
        reader.read(r#"{"a":{"b":1}}"#, &mut slots).unwrap();
        assert_eq!((slots[0], reader.unknown().len()), (Value::Number("1"), 0));
        // A record of a table without any pointer into it.
        let none = Pointers::default();
        let mut reader = Reader::watching(&none);
        reader.read(text, &mut []).unwrap();
        assert_eq!(reader.unknown().len(), 4);
    }

    #[test]
    fn faults_name_the_place() {
        let fault = read(&["/a"], r#"{"a":1,}"#).unwrap_err();
        assert_eq!(fault.to_string(), "not valid JSON at byte 7: expected a key in quotes");
        assert!(read(&["/a"], r#"{"a":1}}"#).is_err());
        assert!(read(&["/a"], r#"{"b":[1,2"#).is_err());
    }
}

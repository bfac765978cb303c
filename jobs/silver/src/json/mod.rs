//! JSON text to the values of declared pointers: what the decoder, the eraser of records and the casts know of JSON.

pub(crate) mod pointer;
pub(crate) mod record;
pub(crate) mod scan;
pub(crate) mod text;
pub(crate) mod value;

use scan::{Malformed, Scanner};

/// The texts of the elements of an array.
pub(crate) fn elements(array: &str) -> Result<Vec<&str>, Malformed> {
    let mut scanner = Scanner::new(array);
    let mut open = Vec::new();
    let mut elements = Vec::new();
    scanner.take(b'[', "`[`")?;
    if scanner.space() == b']' {
        return Ok(elements);
    }
    loop {
        scanner.space();
        let start = scanner.at;
        scanner.skip(&mut open)?;
        elements.push(scanner.since(start));
        if scanner.space() != b',' {
            return scanner.take(b']', "`,` or `]`").map(|()| elements);
        }
        scanner.at += 1;
    }
}

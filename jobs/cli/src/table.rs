//! Tables on the screen, drawn with `|` at the start of their rows.

/// Draws `rows` under `header`. Numbers go to the right.
pub fn draw(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<String> = cells.zip(&widths).map(|(cell, width)| pad(cell, *width)).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let mut text = line(&mut header.iter().copied());
    let rules: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
    text.push_str(&format!("|{}|\n", rules.join("|")));
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

fn pad(cell: &str, width: usize) -> String {
    let blank = " ".repeat(width.saturating_sub(cell.chars().count()));
    let number = !cell.is_empty() && cell.bytes().all(|byte| byte.is_ascii_digit());
    if number { format!("{blank}{cell}") } else { format!("{cell}{blank}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_begins_with_a_bar() {
        let text = draw(&["table", "rows"], &[vec!["silver.ä".into(), "7".into()], vec!["gold.b".into(), "1234".into()]]);
        assert_eq!(text, "| table    | rows |\n|----------|------|\n| silver.ä |    7 |\n| gold.b   | 1234 |\n");
    }
}

//! What is printed: lines, tables and JSON, to a standard output that may be closed at any time.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;
use serde_json::Value;

use crate::error::{CliError, output};

/// Standard output, buffered; and whether it takes JSON.
pub(crate) struct Output {
    stdout: io::BufWriter<io::Stdout>,
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { stdout: io::BufWriter::new(io::stdout()), json }
    }

    /// Whether `--json` was given.
    pub(crate) const fn is_json(&self) -> bool {
        self.json
    }

    /// Prints a line.
    pub(crate) fn line(&mut self, line: impl Display) -> Result<(), CliError> {
        writeln!(self.stdout, "{line}").map_err(|error| output(&error))
    }

    /// Prints a value as one line of JSON.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        let json = serde_json::to_string(value).map_err(|error| CliError::Io(error.to_string()))?;
        self.line(json)
    }

    /// Prints the JSON if `--json` was given, and the text otherwise.
    pub(crate) fn either(&mut self, value: &impl Serialize, text: impl Display) -> Result<(), CliError> {
        if self.json { self.json(value) } else { self.line(text) }
    }

    /// Hands over what has been printed so far.
    pub(crate) fn flush(&mut self) -> Result<(), CliError> {
        self.stdout.flush().map_err(|error| output(&error))
    }
}

/// Rows under a head, in aligned columns. Numbers stand on the right.
pub(crate) struct Table {
    head: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

/// A cell of a [`Table`].
pub(crate) struct Cell {
    text: String,
    is_number: bool,
}

impl Cell {
    pub(crate) fn text(text: impl Display) -> Self {
        Self { text: printable(&text.to_string()), is_number: false }
    }

    pub(crate) fn number(number: impl Display) -> Self {
        Self { text: number.to_string(), is_number: true }
    }

    /// A JSON value, cut to `width` characters.
    pub(crate) fn value(value: &Value, width: usize) -> Self {
        Self { text: shortened(&plain(value), width), is_number: value.is_number() }
    }
}

impl Table {
    pub(crate) fn new<T: Display>(head: impl IntoIterator<Item = T>) -> Self {
        Self { head: head.into_iter().map(|name| printable(&name.to_string())).collect(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// The lines, each indented by `indent` spaces.
    pub(crate) fn lines(&self, indent: usize) -> Vec<String> {
        let width = |column: usize, name: &String| {
            let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.chars().count());
            cells.chain([name.chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = self.head.iter().enumerate().map(|(column, name)| width(column, name)).collect();
        let mut lines = vec![self.head.iter().zip(&widths).map(|(name, width)| format!("{name:<width$}  ")).collect()];
        for row in &self.rows {
            let aligned = |(cell, width): (&Cell, &usize)| match cell.is_number {
                true => format!("{:>width$}  ", cell.text),
                false => format!("{:<width$}  ", cell.text),
            };
            lines.push(row.iter().zip(&widths).map(aligned).collect::<String>());
        }
        lines.into_iter().map(|line| format!("{:indent$}{}", "", line.trim_end())).collect()
    }

    pub(crate) fn print(&self, output: &mut Output) -> Result<(), CliError> {
        self.lines(0).into_iter().try_for_each(|line| output.line(line))
    }
}

/// A JSON value as a person writes it: a string without its quotes.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => printable(text),
        other => printable(&other.to_string()),
    }
}

/// The text with its control characters spelt out: what another replica wrote must not steer the terminal.
pub(crate) fn printable(text: &str) -> String {
    let is_hidden = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let spell = |c: char| if is_hidden(c) { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(spell).collect()
}

/// At most `width` characters of the text; a cut shows as an ellipsis.
pub(crate) fn shortened(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// `1 change`, `2 changes`.
pub(crate) fn count(number: u64, thing: &str) -> String {
    match (number, thing.strip_suffix('y')) {
        (1, _) => format!("1 {thing}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        _ => format!("{number} {thing}s"),
    }
}

/// A size for a person.
pub(crate) fn size(bytes: u64) -> String {
    let scaled = |unit: u64| format!("{}.{}", bytes / unit, bytes % unit * 10 / unit);
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{} kB", scaled(1_000)),
        _ => format!("{} MB", scaled(1_000_000)),
    }
}

/// A line on the terminal that is written over and over; nothing if standard error is no terminal.
pub(crate) struct Progress {
    shown: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { shown: io::stderr().is_terminal() }
    }

    /// Shows the text in place of the one before.
    pub(crate) fn show(&mut self, text: impl Display) {
        if self.shown && write!(io::stderr(), "\r\u{1b}[2K{text}").is_err() {
            self.shown = false;
        }
    }

    /// Clears the line.
    pub(crate) fn clear(&mut self) {
        self.show("");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_stand_on_the_right() {
        let mut table = Table::new(["name", "n"]);
        table.row(vec![Cell::value(&json!("é"), 10), Cell::value(&json!(1000), 10)]);
        table.row(vec![Cell::value(&json!("longer"), 10), Cell::value(&json!(7), 10)]);
        assert_eq!(table.lines(1), [" name    n", " é       1000", " longer     7"]);
    }

    #[test]
    fn foreign_text_cannot_steer_the_terminal() {
        assert_eq!(plain(&json!("a\u{1b}[2Jb\nc")), "a\\u{1b}[2Jb\\nc");
        assert_eq!(printable("a\u{202e}b"), "a\\u{202e}b");
    }

    #[test]
    fn sizes_and_counts_read_well() {
        assert_eq!([size(999), size(1_234), size(2_500_000)], ["999 B", "1.2 kB", "2.5 MB"]);
        assert_eq!(
            [count(1, "entity"), count(2, "entity"), count(0, "change")],
            ["1 entity", "2 entities", "0 changes"]
        );
    }
}

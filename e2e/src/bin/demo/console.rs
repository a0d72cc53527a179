//! What the demo prints, and how.

use std::io::IsTerminal as _;

/// Writes to stdout, with some colour on a terminal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Console {
    colours: bool,
    indent: &'static str,
}

impl Console {
    pub(crate) fn new() -> Self {
        Self { colours: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(), indent: "   " }
    }

    /// A new part of the demo.
    pub(crate) fn heading(self, text: &str) {
        println!("\n{}", self.styled("1;36", &format!("== {text}")));
    }

    /// A sentence.
    pub(crate) fn say(self, text: &str) {
        println!("{}", format!("{}{text}", self.indent).trim_end());
    }

    /// A command that a user would type.
    pub(crate) fn command(self, text: &str) {
        println!("\n{}{}", self.indent, self.styled("1", &format!("$ {text}")));
    }

    /// Text as it is, at most so many lines of it.
    pub(crate) fn block(self, text: &str, limit: usize) {
        let lines: Vec<&str> = text.lines().collect();
        for line in lines.iter().take(limit) {
            println!("{}{line}", self.indent);
        }
        if lines.len() > limit {
            println!("{}{}", self.indent, self.styled("2", &format!("… and {} more", lines.len() - limit)));
        }
    }

    fn styled(self, style: &str, text: &str) -> String {
        if self.colours { format!("\u{1b}[{style}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// Columns as wide as what is in them, as kubectl prints them.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

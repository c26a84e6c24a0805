//! Aligned columns, as kubectl prints them: no lines, three spaces between, the last column not padded.

/// A table under way.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(ToString::to_string).collect()] }
    }

    /// Adds a row. An empty cell is shown as `-`, so that columns can be cut by white space; control characters,
    /// which configuration might hold, never reach the terminal.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let printable = |cell: String| match cell.as_str() {
            "" => "-".to_owned(),
            _ => cell.chars().map(|c| if c.is_control() { '?' } else { c }).collect(),
        };
        self.rows.push(cells.into_iter().map(printable).collect());
    }

    pub(super) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = String::new();
        for row in &self.rows {
            let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            let line = padded.collect::<Vec<_>>().join("   ");
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_nothing_can_steer_the_terminal() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.row(["a-long-name".into(), "ready".into()]);
        table.row(["é\x1b[2J".into(), String::new()]);
        insta::assert_snapshot!(table.render(), @r"
        NAME          STATE
        a-long-name   ready
        é?[2J         -
        ");
    }
}

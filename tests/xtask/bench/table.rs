//! Tables of text: readable as they are, and where Markdown is understood.

/// A table, its first row the heading. The first column is aligned to the left, the others to the
/// right. Rows that are shorter than the heading end in empty cells; longer ones are cut off.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with nothing but its heading.
    pub(crate) fn new(heading: &[&str]) -> Self {
        Self { rows: vec![heading.iter().map(|cell| (*cell).to_owned()).collect()] }
    }

    /// Adds a row.
    pub(crate) fn push(&mut self, mut row: Vec<String>) {
        row.resize(self.rows[0].len(), String::new());
        self.rows.push(row);
    }

    /// The table as lines, without an end of line after the last.
    pub(crate) fn render(&self) -> String {
        let widths: Vec<usize> = (0..self.rows[0].len())
            .map(|column| self.rows.iter().map(|row| row[column].chars().count()).max())
            .map(|width| width.unwrap_or_default().max(2))
            .collect();
        let mut lines: Vec<String> = self.rows.iter().map(|row| render_row(row, &widths)).collect();
        let rule: Vec<String> = widths
            .iter()
            .enumerate()
            .map(|(column, width)| match column {
                0 => "-".repeat(*width),
                _ => format!("{}:", "-".repeat(width - 1)),
            })
            .collect();
        lines.insert(1, render_row(&rule, &widths));
        lines.join("\n")
    }
}

fn render_row(cells: &[String], widths: &[usize]) -> String {
    let cells: Vec<String> = cells
        .iter()
        .zip(widths)
        .enumerate()
        .map(|(column, (cell, &width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        })
        .collect();
    format!("| {} |", cells.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["measure", "median", "?"]);
        table.push(vec!["reads".into(), "12,000/s".into(), "met".into()]);
        table.push(vec!["pause".into(), "830 µs".into()]);
        let expected = "\
| measure |   median |   ? |
| ------- | -------: | --: |
| reads   | 12,000/s | met |
| pause   |   830 µs |     |";
        assert_eq!(table.render(), expected);
    }

    #[test]
    fn cells_beyond_the_heading_are_cut_off() {
        let mut table = Table::new(&["a"]);
        table.push(vec!["b".into(), "c".into()]);
        assert_eq!(table.render(), "| a  |\n| -- |\n| b  |");
    }
}

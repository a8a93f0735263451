//! Rounds of two contenders, and the table made from them.

/// One quantity over the rounds, for Rhea and for QEMU. A contender that could not run has no values.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) rhea: Vec<f64>,
    pub(crate) qemu: Vec<f64>,
}

impl Row {
    pub(crate) fn new(name: impl Into<String>, unit: &'static str) -> Self {
        Row { name: name.into(), unit, rhea: Vec::new(), qemu: Vec::new() }
    }

    /// The row in Markdown.
    pub(crate) fn markdown(&self) -> String {
        let ratios: Vec<f64> = self.rhea.iter().zip(&self.qemu).map(|(rhea, qemu)| rhea / qemu).collect();
        let ratio = match (
            median(&ratios),
            ratios.iter().copied().reduce(f64::min),
            ratios.iter().copied().reduce(f64::max),
        ) {
            (Some(middle), Some(least), Some(most)) => format!("{middle:.2} ({least:.2}–{most:.2})"),
            _ => "–".to_owned(),
        };
        let cell = |values: &[f64]| median(values).map_or_else(|| "–".to_owned(), number);
        format!("| {} | {} | {} | {} | {} |", self.name, self.unit, cell(&self.rhea), cell(&self.qemu), ratio)
    }
}

/// Three significant digits or so, without an exponent.
fn number(value: f64) -> String {
    match value {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The middle value; the mean of the middle two when their number is even.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        count if count % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_round_by_round() {
        let row =
            Row { name: "boot".to_owned(), unit: "s", rhea: vec![1.0, 4.0, 3.0], qemu: vec![2.0, 4.0, 12.0] };
        assert_eq!(row.markdown(), "| boot | s | 3.00 | 4.00 | 0.50 (0.25–1.00) |");
        let alone = Row { name: "boot".to_owned(), unit: "s", rhea: vec![], qemu: vec![120.0, 130.0] };
        assert_eq!(alone.markdown(), "| boot | s | – | 125 | – |");
    }
}

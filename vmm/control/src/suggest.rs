//! The nearest known name to a misspelt one.

/// The candidate nearest to `name`, when it is near enough to be what was meant.
///
/// Near enough: an edit distance (insert, delete, replace, swap of neighbours) of at most a third of the
/// longer name, at least 1; or one being a prefix of the other with three letters in common.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A very long name is no typing error, and the distance costs the product of both lengths.
    if name.len() > 80 {
        return None;
    }
    let lower = name.to_ascii_lowercase();
    known
        .into_iter()
        .filter_map(|k| {
            let candidate = k.to_ascii_lowercase();
            let d = distance(&lower, &candidate);
            let longest = lower.chars().count().max(candidate.chars().count());
            let prefix = lower.len() >= 3
                && candidate.len() >= 3
                && (candidate.starts_with(&lower) || lower.starts_with(&candidate));
            (d <= (longest / 3).max(1) && d < longest || prefix).then_some((d, k))
        })
        .min_by_key(|&(d, _)| d)
        .map(|(_, k)| k)
}

/// Optimal string alignment distance.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, d) in
            [("", "", 0), ("abc", "", 3), ("kernel", "kernle", 1), ("append", "apend", 1), ("smp", "spm", 1)]
        {
            assert_eq!(distance(a, b), d, "{a} {b}");
        }
    }

    #[test]
    fn near_and_far() {
        let known = ["kernel", "initrd", "append", "smp", "no-reboot"];
        assert_eq!(nearest("kernal", known), Some("kernel"));
        assert_eq!(nearest("norebot", known), Some("no-reboot"));
        assert_eq!(nearest("SMP", known), Some("smp"));
        assert_eq!(nearest("zzzz", known), None);
        assert_eq!(nearest(&"k".repeat(10_000), known), None);
    }
}

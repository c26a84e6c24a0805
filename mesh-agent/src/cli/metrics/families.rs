//! Prometheus' text format, read as far as counting needs it: families, series and labels. Pure.

use std::collections::HashMap;

/// One family.
#[derive(Debug, PartialEq)]
pub(super) struct Family {
    pub name: String,
    /// `counter`, `gauge`, `histogram`, or `untyped`.
    pub kind: String,
    /// Lines that Prometheus keeps: a histogram has one for each bucket.
    pub series: usize,
    /// Those with most values first.
    pub labels: Vec<Label>,
}

/// One label of a family.
#[derive(Debug, PartialEq)]
pub(super) struct Label {
    pub name: String,
    /// Values and how many series have each, those with most first.
    pub values: Vec<(String, usize)>,
}

type Values<'t> = HashMap<&'t str, usize>;

pub(super) fn parse(text: &str) -> Vec<Family> {
    let mut families: Vec<(Family, HashMap<&str, Values<'_>>)> = Vec::new();
    for line in text.lines() {
        if let Some(typed) = line.strip_prefix("# TYPE ") {
            let (name, kind) = typed.split_once(' ').unwrap_or((typed, "untyped"));
            let family =
                Family { name: name.to_owned(), kind: kind.to_owned(), series: 0, labels: Vec::new() };
            families.push((family, HashMap::new()));
            continue;
        }
        if line.starts_with('#') || line.is_empty() {
            continue;
        }
        // All of a family's lines stand below its TYPE.
        let Some((family, labels)) = families.last_mut() else { continue };
        family.series += 1;
        for (name, value) in pairs(line) {
            *labels.entry(name).or_default().entry(value).or_default() += 1;
        }
    }
    let families = families.into_iter().map(|(family, labels)| Family { labels: sorted(labels), ..family });
    families.collect()
}

fn sorted(labels: HashMap<&str, Values<'_>>) -> Vec<Label> {
    let label = |(name, values): (&str, Values<'_>)| {
        let mut values: Vec<_> = values.into_iter().map(|(value, n)| (value.to_owned(), n)).collect();
        values.sort_by(|(a, m), (b, n)| n.cmp(m).then_with(|| a.cmp(b)));
        Label { name: name.to_owned(), values }
    };
    let mut labels: Vec<_> = labels.into_iter().map(label).collect();
    labels.sort_by(|a, b| b.values.len().cmp(&a.values.len()).then_with(|| a.name.cmp(&b.name)));
    labels
}

/// The labels of one line, values as they are escaped there.
fn pairs(line: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = line.split_once('{').map_or("", |(_, rest)| rest);
    std::iter::from_fn(move || {
        let (name, value) = rest.split_once("=\"")?;
        let end = closing(value)?;
        rest = value[end + 1..].trim_start_matches(',');
        Some((name, &value[..end]))
    })
}

/// Where the quote that ends a value is.
fn closing(value: &str) -> Option<usize> {
    let mut escaped = false;
    value.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_and_labels_are_counted() {
        let text = "# HELP a Help.\n# TYPE a counter\na{x=\"1\",y=\"q\\\"{}, b\"} 1\na{x=\"2\",y=\"q\\\"{}, b\"} 5\n\
                    # TYPE b gauge\nb 3\n# TYPE c histogram\nc_bucket{le=\"1\"} 0\nc_bucket{le=\"+Inf\"} 1\nc_sum 1\nc_count 1\n";
        let families = parse(text);
        let series: Vec<_> = families.iter().map(|f| (f.name.as_str(), f.kind.as_str(), f.series)).collect();
        assert_eq!(series, [("a", "counter", 2), ("b", "gauge", 1), ("c", "histogram", 4)]);
        let labels = |at: usize| {
            let labels = families.get(at).map_or(&[][..], |family| &family.labels);
            labels.iter().map(|l| (l.name.as_str(), l.values.len())).collect::<Vec<_>>()
        };
        assert_eq!(labels(0), [("x", 2), ("y", 1)]);
        assert_eq!((labels(1), labels(2)), (vec![], vec![("le", 2)]));
        let y = families.first().and_then(|family| family.labels.get(1)).map(|label| label.values.clone());
        assert_eq!(y, Some(vec![("q\\\"{}, b".to_owned(), 2)]));
    }

    #[test]
    fn nonsense_is_no_panic() {
        for text in
            ["a{x=\"", "}{", "# TYPE ", "# TYPE a\na{x=\"\\", "a{=\"\"\"}", "# TYPE a b\na{é=\"é\"} 1"]
        {
            parse(text);
        }
    }
}

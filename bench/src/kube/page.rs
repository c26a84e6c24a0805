//! The page about Kubernetes and its plot, apart from the other figures: it is made where there is a cluster.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::{Measured, Times};
use crate::report::machine;

const BINS: usize = 30;
const WIDTH: f64 = 760.0;
const PANEL: f64 = 150.0;
const LEFT: f64 = 20.0;
const BARS: f64 = 90.0;

/// Writes both.
pub fn write(out: &Path, measured: &Measured, background: f64) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("could not make {}", out.display()))?;
    let page = format!(
        "{}\n## Machine\n\n{}\n## Figures\n\n![Histograms](kubernetes.svg)\n\n{}",
        include_str!("head.md"),
        machine::short(background),
        table(measured)
    );
    fs::write(out.join("kubernetes.md"), page)?;
    fs::write(out.join("kubernetes.svg"), svg(&measured.times))?;
    eprintln!("bench: wrote {}", out.join("kubernetes.md").display());
    Ok(())
}

/// Percentiles as Markdown.
pub fn table(measured: &Measured) -> String {
    let mut text =
        "| | samples | p50 ms | p90 ms | p99 ms | max ms |\n|---|---:|---:|---:|---:|---:|\n".to_owned();
    for times in &measured.times {
        let [p50, p90, p99, max] = [50, 90, 99, 100].map(|percent| times.percentile(percent));
        let _ = writeln!(
            text,
            "| {} | {} | {p50:.0} | {p90:.0} | {p99:.0} | {max:.0} |",
            times.what,
            times.millis.len()
        );
    }
    for times in &measured.times {
        let _ = write!(text, "\n{}: {}.\n", times.what, times.how);
    }
    let _ = write!(
        text,
        "\nWhile endpoints were taken out and put back {} requests were sent, of which {} failed.\n",
        measured.requests, measured.failed
    );
    text
}

fn svg(all: &[Times]) -> String {
    let height = 20.0 + all.len() as f64 * PANEL;
    let mut text = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" font-family="system-ui, sans-serif" font-size="13">
<title>Histograms, milliseconds</title>
<style>
  text {{ fill: #1f2933; }} .head {{ font-weight: 600; }} .bar {{ fill: #2563eb; }} .line {{ stroke: #829ab1; }}
  @media (prefers-color-scheme: dark) {{ text {{ fill: #e4e7eb; }} .bar {{ fill: #60a5fa; }} }}
</style>
"#
    );
    for (at, times) in all.iter().enumerate() {
        panel(&mut text, times, 10.0 + at as f64 * PANEL);
    }
    text + "</svg>\n"
}

fn panel(text: &mut String, times: &Times, top: f64) {
    let (least, most) = (times.percentile(0), times.percentile(100));
    let bins = bins(&times.millis);
    let tallest = bins.iter().copied().max().unwrap_or_default().max(1) as f64;
    let (width, floor) = ((WIDTH - 2.0 * LEFT) / BINS as f64, top + 26.0 + BARS);
    let _ = writeln!(
        text,
        r#"<text x="{LEFT}" y="{}" class="head">{}, ms ({} samples)</text>"#,
        top + 14.0,
        times.what,
        times.millis.len()
    );
    for (at, count) in bins.iter().enumerate().filter(|(_, count)| **count > 0) {
        let tall = *count as f64 / tallest * BARS;
        let _ = writeln!(
            text,
            r#"<rect x="{:.1}" y="{:.1}" width="{:.1}" height="{tall:.1}" class="bar"/>"#,
            LEFT + at as f64 * width,
            floor - tall,
            width - 2.0
        );
    }
    let _ =
        writeln!(text, r#"<line x1="{LEFT}" y1="{floor}" x2="{}" y2="{floor}" class="line"/>"#, WIDTH - LEFT);
    let _ = writeln!(text, r#"<text x="{LEFT}" y="{}">{least:.0}</text>"#, floor + 16.0);
    let _ = writeln!(
        text,
        r#"<text x="{}" y="{}" text-anchor="end">{most:.0}</text>"#,
        WIDTH - LEFT,
        floor + 16.0
    );
}

/// How many figures are in each of the equal parts between the smallest and the largest.
fn bins(sorted: &[f64]) -> [usize; BINS] {
    let mut bins = [0; BINS];
    let (Some(least), Some(most)) = (sorted.first(), sorted.last()) else { return bins };
    let part = ((most - least) / BINS as f64).max(f64::MIN_POSITIVE);
    for figure in sorted {
        bins[(((figure - least) / part) as usize).min(BINS - 1)] += 1;
    }
    bins
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_is_in_one_bin() {
        let figures: Vec<f64> = (0..=60).map(f64::from).collect();
        let found = bins(&figures);
        assert_eq!((found[0], found[BINS - 1], found.iter().sum::<usize>()), (2, 3, 61));
        assert_eq!(bins(&[7.0, 7.0])[0], 2);
        assert_eq!(bins(&[]), [0; BINS]);
    }

    #[test]
    fn the_table_has_a_row_for_each() {
        let times = vec![Times::new("Something", "from here to there", vec![3.0, 1.0, 2.0])];
        let text = table(&Measured { times, requests: 9, failed: 0 });
        assert!(text.contains("| Something | 3 | 2 | 3 | 3 | 3 |"), "{text}");
        assert!(
            text.contains("Something: from here to there.")
                && text.contains("9 requests were sent, of which 0 failed")
        );
    }
}

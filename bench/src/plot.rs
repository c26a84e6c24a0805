//! Horizontal bars as an SVG that reads on light and dark pages.

use std::fmt::Write as _;

/// One panel of a plot, with a scale of its own.
pub struct Panel {
    pub title: String,
    pub bars: Vec<Bar>,
}

/// One bar; `behind`, if larger, is drawn lighter behind it.
pub struct Bar {
    pub label: String,
    pub value: f64,
    pub behind: f64,
}

const WIDTH: f64 = 760.0;
const LEFT: f64 = 230.0;
/// Room for the figures at the end of the longest bar.
const RIGHT: f64 = 110.0;
const ROW: f64 = 24.0;
const HEAD: f64 = 34.0;

/// The whole picture.
pub fn svg(title: &str, panels: &[Panel]) -> String {
    let rows: usize = panels.iter().map(|panel| panel.bars.len()).sum();
    let height = 40.0 + panels.len() as f64 * (HEAD + 10.0) + rows as f64 * ROW;
    let mut text = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" font-family="system-ui, sans-serif" font-size="13">
<title>{title}</title>
<style>
  text {{ fill: #1f2933; }} .head {{ font-weight: 600; }} .bar {{ fill: #627d98; }} .ours {{ fill: #2563eb; }} .behind {{ opacity: 0.3; }}
  @media (prefers-color-scheme: dark) {{ text {{ fill: #e4e7eb; }} .bar {{ fill: #829ab1; }} .ours {{ fill: #60a5fa; }} }}
</style>
<text x="10" y="24" class="head">{title}</text>
"#,
        title = escape(title)
    );
    let mut y = 40.0;
    for panel in panels {
        let _ =
            writeln!(text, r#"<text x="10" y="{}" class="head">{}</text>"#, y + 22.0, escape(&panel.title));
        y += HEAD;
        let longest =
            panel.bars.iter().map(|bar| bar.value.max(bar.behind)).fold(f64::MIN_POSITIVE, f64::max);
        for bar in &panel.bars {
            draw(&mut text, bar, y, (WIDTH - LEFT - RIGHT) / longest);
            y += ROW;
        }
        y += 10.0;
    }
    text + "</svg>\n"
}

fn draw(text: &mut String, bar: &Bar, y: f64, scale: f64) {
    let class = if bar.label == crate::rows::AGENT { "ours" } else { "bar" };
    let _ = writeln!(
        text,
        r#"<text x="{}" y="{}" text-anchor="end">{}</text>"#,
        LEFT - 8.0,
        y + 14.0,
        escape(&bar.label)
    );
    let mut rect = |value: f64, class: &str| {
        if value > 0.0 {
            let _ = writeln!(
                text,
                r#"<rect x="{LEFT}" y="{}" width="{:.1}" height="{}" rx="2" class="{class}"/>"#,
                y + 1.0,
                value * scale,
                ROW - 6.0
            );
        }
    };
    rect(bar.behind, &format!("{class} behind"));
    rect(bar.value, class);
    let end = LEFT + bar.value.max(bar.behind) * scale + 6.0;
    let figures = match (bar.value > 0.0, bar.behind > 0.0) {
        (true, true) => format!("{} / {}", figure(bar.value), figure(bar.behind)),
        (false, true) => format!("- / {}", figure(bar.behind)),
        _ => figure(bar.value),
    };
    let _ = writeln!(text, r#"<text x="{end:.1}" y="{}">{figures}</text>"#, y + 14.0);
}

fn figure(value: f64) -> String {
    if value < 1000.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_bar_ends_at_the_margin_and_labels_are_escaped() {
        let bars = vec![
            Bar { label: "a < b".to_owned(), value: 10.0, behind: 0.0 },
            Bar { label: "c".to_owned(), value: 5.0, behind: 20.0 },
        ];
        let picture = svg("t", &[Panel { title: "p".to_owned(), bars }]);
        assert!(picture.contains("a &lt; b"));
        assert!(
            picture.contains(&format!("width=\"{:.1}\"", WIDTH - LEFT - RIGHT)),
            "the larger figure of c"
        );
        assert!(picture.contains("5.0 / 20.0"));
    }
}

//! How `top` looks: a line of what and when, the views, the table, a panel if there is one, and the keys.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table};

use super::app::{App, View};
use crate::cli::output::printable;
use crate::cli::style::Mark;

const KEYS: &str = "Tab view   s sort   S reverse   / filter   p pause   q quit";

pub(super) fn draw(app: &App, frame: &mut Frame<'_>) {
    let [head, tabs, table, panel, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(u16::try_from(app.panel.len()).unwrap_or(u16::MAX)),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(heading(app)), head);
    frame.render_widget(Paragraph::new(views(app)), tabs);
    draw_table(app, frame, table);
    frame.render_widget(Paragraph::new(panel_lines(app)), panel);
    frame.render_widget(Paragraph::new(footer(app)), foot);
}

fn panel_lines(app: &App) -> Vec<Line<'static>> {
    let styled = |mark: Option<Mark>| mark.map(|mark| painted(app, mark)).unwrap_or_default();
    app.panel.iter().map(|line| Line::styled(printable(&line.text), styled(line.mark))).collect()
}

fn heading(app: &App) -> Line<'static> {
    let nodes = match app.data.nodes.as_slice() {
        [node] => format!("node {node}"),
        nodes => format!("{} nodes", nodes.len()),
    };
    let text = format!("mesh-agent top   {nodes}   last {}s   {}", app.live.window.as_secs(), app.data.at);
    let mut spans = vec![Span::raw(text)];
    if app.is_paused {
        spans.push(Span::styled("   paused", painted(app, Mark::Warn)));
    }
    if let Some(trouble) = &app.trouble {
        spans.push(Span::styled(format!("   {trouble}"), painted(app, Mark::Bad)));
    }
    Line::from(spans)
}

fn views(app: &App) -> Line<'static> {
    let mut spans = Vec::new();
    for view in View::ALL {
        let chosen = view == app.view;
        let style = if chosen { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        spans.extend([Span::styled(format!(" {} ", view.label()), style), Span::raw(" ")]);
    }
    spans.push(Span::raw(format!("  {}", app.view.command())));
    Line::from(spans)
}

fn footer(app: &App) -> Line<'static> {
    if app.is_editing {
        return Line::raw(format!("/{}_   Enter keeps, Esc clears", app.filter));
    }
    match app.filter.as_str() {
        "" => Line::raw(KEYS),
        filter => Line::raw(format!("{KEYS}   filter: {filter} (Esc clears)")),
    }
}

fn draw_table(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let (rows, header) = (app.rows(), app.view.header());
    if rows.is_empty() {
        let text =
            if app.filter.is_empty() { "no traffic in the window" } else { "nothing passes the filter" };
        frame.render_widget(Paragraph::new(text), area);
        return;
    }
    let arrow = if app.descending { "v" } else { "^" };
    let title = |(at, name): (usize, &&str)| {
        if at == app.sorted_by() { format!("{name} {arrow}") } else { (*name).to_owned() }
    };
    let titles: Vec<String> = header.iter().enumerate().map(title).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.chars().count());
        let own = titles.get(column).map_or(0, |title| title.chars().count());
        Constraint::Length(u16::try_from(cells.max().unwrap_or(0).max(own)).unwrap_or(u16::MAX))
    };
    let widths: Vec<Constraint> = (0..header.len()).map(width).collect();
    let shown = rows.iter().skip(app.scrolled).map(|row| {
        Row::new(row.iter().map(|cell| {
            let style = cell.mark.map(|mark| painted(app, mark)).unwrap_or_default();
            let text = if cell.text.is_empty() { "-".to_owned() } else { cell.text.clone() };
            Cell::from(text).style(style)
        }))
    });
    let table = Table::new(shown, widths)
        .header(Row::new(titles).style(Style::new().add_modifier(Modifier::BOLD)))
        .column_spacing(2);
    frame.render_widget(table, area);
}

fn painted(app: &App, mark: Mark) -> Style {
    if !app.color {
        return Style::new();
    }
    match mark {
        Mark::Good => Style::new().fg(Color::Green),
        Mark::Warn => Style::new().fg(Color::Yellow),
        Mark::Bad => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
    }
}

//! What `top` shows, and what keys do to it. Pure: neither terminal nor clock.

use std::cmp::Ordering;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::cli::edges::Pair;
use crate::cli::live::LiveArgs;
use crate::cli::live::sum::Shown;
use crate::cli::routes::RouteStat;
use crate::cli::stat::Stat;
use crate::cli::style::Mark;
use crate::cli::top::PanelLine;

/// What the agents said last.
#[derive(Clone, Debug, Default)]
pub(super) struct Data {
    pub at: String,
    pub nodes: Vec<String>,
    pub edges: Vec<Pair>,
    pub services: Vec<Stat>,
    pub routes: Vec<RouteStat>,
}

/// One of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    Edges,
    Services,
    Routes,
}

impl View {
    pub(super) const ALL: [Self; 3] = [Self::Edges, Self::Services, Self::Routes];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Edges => "edges",
            Self::Services => "services",
            Self::Routes => "routes",
        }
    }

    /// The command that prints the same.
    pub(super) fn command(self) -> &'static str {
        match self {
            Self::Edges => "mesh-agent edges -o wide",
            Self::Services => "mesh-agent stat svc",
            Self::Routes => "mesh-agent routes",
        }
    }

    pub(super) fn header(self) -> &'static [&'static str] {
        match self {
            Self::Edges => {
                &["SRC", "DST", "SECURED", "SUCCESS", "RPS", "P50", "P95", "P99", "TCP_CONN", "FLAGS"]
            }
            Self::Services => {
                &["NAMESPACE", "NAME", "MESHED", "SUCCESS", "RPS", "P50", "P95", "P99", "TCP_CONN", "FLAGS"]
            }
            Self::Routes => &["ROUTE", "RULE", "SERVICE", "SUCCESS", "RPS", "P50", "P95", "P99"],
        }
    }

    fn next(self, by: usize) -> Self {
        let at = Self::ALL.iter().position(|view| *view == self).unwrap_or(0);
        Self::ALL.get((at + by) % Self::ALL.len()).copied().unwrap_or(self)
    }
}

/// One cell: what is shown, and what it is sorted by.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cell {
    pub text: String,
    pub by: Option<f64>,
    pub mark: Option<Mark>,
}

/// Everything on the screen.
pub(super) struct App {
    pub data: Data,
    pub view: View,
    /// By column of the header, for each view.
    sort: [usize; 3],
    /// Greatest first.
    pub descending: bool,
    pub filter: String,
    /// Keys go into the filter.
    pub is_editing: bool,
    pub is_paused: bool,
    /// Rows above the first that is shown.
    pub scrolled: usize,
    pub trouble: Option<String>,
    pub color: bool,
    pub live: LiveArgs,
    /// Another command's, below the table.
    pub panel: Vec<PanelLine>,
}

impl App {
    pub(super) fn new(data: Data, color: bool, live: LiveArgs) -> Self {
        Self {
            data,
            view: View::Edges,
            // By rate.
            sort: [4, 4, 4],
            descending: true,
            filter: String::new(),
            is_editing: false,
            is_paused: false,
            scrolled: 0,
            trouble: None,
            color,
            live,
            panel: Vec::new(),
        }
    }

    /// Takes what the agents say, unless it is paused.
    pub(super) fn update(&mut self, fresh: Result<Data, String>) {
        match fresh {
            Err(trouble) => self.trouble = Some(trouble),
            Ok(data) => {
                self.trouble = None;
                if !self.is_paused {
                    self.data = data;
                }
            }
        }
    }

    /// The letter, if a panel may take this key.
    pub(super) fn key_of_panel(&self, key: KeyEvent) -> Option<char> {
        let is_plain = !key.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT);
        match key.code {
            KeyCode::Char(letter) if is_plain && !self.is_editing => Some(letter),
            _ => None,
        }
    }

    /// True if it was the key to leave by.
    pub(super) fn key(&mut self, key: KeyEvent) -> bool {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return key.code == KeyCode::Char('c');
        }
        if self.is_editing {
            match key.code {
                KeyCode::Enter => self.is_editing = false,
                KeyCode::Esc => {
                    self.is_editing = false;
                    self.filter.clear();
                }
                KeyCode::Backspace => drop(self.filter.pop()),
                KeyCode::Char(c) => self.filter.push(c),
                _ => {}
            }
            self.scrolled = 0;
            return false;
        }
        let rows = self.rows().len();
        match key.code {
            KeyCode::Char('q') => return true,
            KeyCode::Tab => self.turn(1),
            KeyCode::BackTab => self.turn(View::ALL.len() - 1),
            KeyCode::Char('s') => {
                let columns = self.view.header().len();
                let sort = self.sort_mut();
                *sort = (*sort + 1) % columns;
            }
            KeyCode::Char('S') => self.descending = !self.descending,
            KeyCode::Char('/') => self.is_editing = true,
            KeyCode::Char('p') => self.is_paused = !self.is_paused,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Down | KeyCode::Char('j') => {
                self.scrolled = (self.scrolled + 1).min(rows.saturating_sub(1))
            }
            KeyCode::Up | KeyCode::Char('k') => self.scrolled = self.scrolled.saturating_sub(1),
            KeyCode::PageDown => self.scrolled = (self.scrolled + 10).min(rows.saturating_sub(1)),
            KeyCode::PageUp => self.scrolled = self.scrolled.saturating_sub(10),
            KeyCode::Home => self.scrolled = 0,
            _ => {}
        }
        false
    }

    fn turn(&mut self, by: usize) {
        self.view = self.view.next(by);
        self.scrolled = 0;
    }

    fn sort_mut(&mut self) -> &mut usize {
        let [edges, services, routes] = &mut self.sort;
        match self.view {
            View::Edges => edges,
            View::Services => services,
            View::Routes => routes,
        }
    }

    /// The column that it is sorted by.
    pub(super) fn sorted_by(&self) -> usize {
        let [edges, services, routes] = self.sort;
        match self.view {
            View::Edges => edges,
            View::Services => services,
            View::Routes => routes,
        }
    }

    /// What passes the filter, in order.
    pub(super) fn rows(&self) -> Vec<Vec<Cell>> {
        let mut rows: Vec<_> = match self.view {
            View::Edges => self.data.edges.iter().map(edge).collect(),
            View::Services => self.data.services.iter().map(service).collect(),
            View::Routes => self.data.routes.iter().map(route).collect(),
        };
        let filter = self.filter.to_lowercase();
        let passes = |row: &Vec<Cell>| row.iter().any(|cell| cell.text.to_lowercase().contains(&filter));
        rows.retain(passes);
        let by = self.sorted_by();
        rows.sort_by(|a, b| {
            let (Some(a), Some(b)) = (a.get(by), b.get(by)) else { return Ordering::Equal };
            // What has no figure comes last whichever way it goes.
            let order = match (a.by, b.by) {
                (Some(a), Some(b)) => a.total_cmp(&b),
                (Some(_), None) => return Ordering::Less,
                (None, Some(_)) => return Ordering::Greater,
                (None, None) if a.text.is_empty() || b.text.is_empty() => {
                    return a.text.is_empty().cmp(&b.text.is_empty());
                }
                (None, None) => a.text.cmp(&b.text),
            };
            if self.descending { order.reverse() } else { order }
        });
        rows
    }
}

fn plain(text: impl Into<String>) -> Cell {
    // What configuration or peers say never steers the terminal.
    Cell {
        text: text.into().chars().map(|c| if c.is_control() { '?' } else { c }).collect(),
        by: None,
        mark: None,
    }
}

fn figure(text: String, by: Option<f64>) -> Cell {
    Cell { by, ..plain(text) }
}

fn success(figures: &Shown) -> Cell {
    let mark = figures.success.map(|share| match share {
        share if share >= 0.999 => Mark::Good,
        share if share >= 0.95 => Mark::Warn,
        _ => Mark::Bad,
    });
    Cell { mark, ..figure(figures.success_text(), figures.success) }
}

/// SUCCESS, RPS and the latencies.
fn common(figures: &Shown) -> Vec<Cell> {
    let [p50, p95, p99] = figures.latencies();
    let rps = (figures.requests > 0).then_some(figures.rps);
    vec![
        success(figures),
        figure(figures.rps_text(), rps),
        figure(p50, figures.p50_ms),
        figure(p95, figures.p95_ms),
        figure(p99, figures.p99_ms),
    ]
}

fn connections(figures: &Shown) -> Vec<Cell> {
    let flags: Vec<_> = figures.flags.iter().map(|(flag, n)| format!("{flag}={n}")).collect();
    let open = figures.connections_open;
    vec![figure(open.to_string(), Some(open as f64)), plain(flags.join(" "))]
}

fn edge(pair: &Pair) -> Vec<Cell> {
    let (secured, mark) = match pair.security.as_str() {
        "mutual_tls" => ("yes", Some(Mark::Good)),
        "none" => ("no", Some(Mark::Warn)),
        _ => ("", None),
    };
    let mut row = vec![
        plain(format!("{}/{}", pair.source_namespace, pair.source)),
        plain(format!("{}/{}", pair.destination_namespace, pair.destination)),
        Cell { mark, ..plain(secured) },
    ];
    row.extend(common(&pair.figures));
    row.extend(connections(&pair.figures));
    row
}

fn service(stat: &Stat) -> Vec<Cell> {
    let meshed = stat.meshed.map(|[meshed, all]| format!("{meshed}/{all}")).unwrap_or_default();
    let mut row = vec![plain(&stat.namespace), plain(&stat.name), plain(meshed)];
    row.extend(common(&stat.figures));
    row.extend(connections(&stat.figures));
    row
}

fn route(stat: &RouteStat) -> Vec<Cell> {
    let mut row = vec![plain(&stat.route), plain(&stat.rule), plain(&stat.service)];
    row.extend(common(&stat.figures));
    row
}

#[cfg(test)]
mod tests;

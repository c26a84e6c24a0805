//! What `top` draws, and what keys change.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;

use clap::Parser;
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::cli::live::sum::Sum;
use crate::cli::top::Panel;
use crate::cli::top::draw::draw;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    live: LiveArgs,
}

fn figures(requests: u64, failures: u64) -> Shown {
    Sum { requests, failures, rps: requests as f64 / 60.0, open: 3, ..Sum::default() }.shown()
}

fn pair(source: &str, security: &str, requests: u64, failures: u64) -> Pair {
    Pair {
        source: source.into(),
        destination: "cart".into(),
        source_namespace: "shop".into(),
        destination_namespace: "shop".into(),
        security: security.into(),
        client_id: String::new(),
        server_id: String::new(),
        services: BTreeSet::new(),
        protocols: BTreeSet::new(),
        figures: figures(requests, failures),
    }
}

fn app() -> App {
    let stat = |name: &str, requests| Stat {
        namespace: "shop".into(),
        name: name.into(),
        meshed: Some([1, 2]),
        figures: figures(requests, 0),
    };
    let route = RouteStat {
        kind: "HTTPRoute".into(),
        route: "shop/split".into(),
        rule: "0".into(),
        service: "shop/cart".into(),
        figures: figures(60, 30),
    };
    let data = Data {
        at: "2026-11-30T16:00:00Z".into(),
        nodes: vec!["node-a".into()],
        edges: vec![
            pair("web", "mutual_tls", 600, 0),
            pair("batch", "none", 60, 6),
            pair("idle\x1b[2J", "none", 0, 0),
        ],
        services: vec![stat("cart", 660), stat("till", 0)],
        routes: vec![route],
    };
    App::new(data, false, Line::try_parse_from(["x"]).unwrap().live)
}

fn screen(app: &App) -> String {
    let mut terminal = Terminal::new(TestBackend::new(100, 9)).unwrap();
    terminal.draw(|frame| draw(app, frame)).unwrap();
    let lines = terminal.backend().to_string();
    lines.lines().map(|line| line.trim_matches('"').trim_end().to_owned() + "\n").collect()
}

fn press(app: &mut App, keys: &str) -> bool {
    keys.chars().any(|c| {
        let code = match c {
            '\t' => KeyCode::Tab,
            '\n' => KeyCode::Enter,
            '\x1b' => KeyCode::Esc,
            '\x08' => KeyCode::Backspace,
            c => KeyCode::Char(c),
        };
        app.key(KeyEvent::new(code, KeyModifiers::NONE))
    })
}

fn firsts(app: &App) -> Vec<String> {
    app.rows().iter().map(|row| row[0].text.clone()).collect()
}

#[test]
fn three_views() {
    let mut app = app();
    insta::assert_snapshot!(screen(&app), @r"
    mesh-agent top   node node-a   last 60s   2026-11-30T16:00:00Z
     edges   services   routes    mesh-agent edges -o wide
    SRC            DST        SECURED  SUCCESS  RPS v    P50  P95  P99  TCP_CONN  FLAGS
    shop/web       shop/cart  yes      100.00%  10.0rps  -    -    -    3         -
    shop/batch     shop/cart  no       90.00%   1.0rps   -    -    -    3         -
    shop/idle?[2J  shop/cart  no       -        -        -    -    -    3         -


    Tab view   s sort   S reverse   / filter   p pause   q quit
    ");
    assert!(!press(&mut app, "\t"));
    insta::assert_snapshot!(screen(&app), @r"
    mesh-agent top   node node-a   last 60s   2026-11-30T16:00:00Z
     edges   services   routes    mesh-agent stat svc
    NAMESPACE  NAME  MESHED  SUCCESS  RPS v    P50  P95  P99  TCP_CONN  FLAGS
    shop       cart  1/2     100.00%  11.0rps  -    -    -    3         -
    shop       till  1/2     -        -        -    -    -    3         -



    Tab view   s sort   S reverse   / filter   p pause   q quit
    ");
    press(&mut app, "\t");
    insta::assert_snapshot!(screen(&app), @r"
    mesh-agent top   node node-a   last 60s   2026-11-30T16:00:00Z
     edges   services   routes    mesh-agent routes
    ROUTE       RULE  SERVICE    SUCCESS  RPS v   P50  P95  P99
    shop/split  0     shop/cart  50.00%   1.0rps  -    -    -




    Tab view   s sort   S reverse   / filter   p pause   q quit
    ");
    press(&mut app, "\t");
    assert_eq!(app.view, View::Edges);
    app.key(KeyEvent::new(KeyCode::BackTab, KeyModifiers::SHIFT));
    assert_eq!(app.view, View::Routes);
}

#[test]
fn rows_are_sorted_by_any_column_and_what_has_no_figure_is_last() {
    let mut app = app();
    assert_eq!(firsts(&app), ["shop/web", "shop/batch", "shop/idle?[2J"]);
    press(&mut app, "S");
    assert_eq!(firsts(&app), ["shop/batch", "shop/web", "shop/idle?[2J"]);
    // Past the last column comes the first: by name.
    press(&mut app, "ssssss");
    assert_eq!(app.sorted_by(), 0);
    assert_eq!(firsts(&app), ["shop/batch", "shop/idle?[2J", "shop/web"]);
    press(&mut app, "S");
    assert_eq!(firsts(&app), ["shop/web", "shop/idle?[2J", "shop/batch"]);
}

#[test]
fn a_filter_is_typed_kept_and_cleared() {
    let mut app = app();
    // Within it no key is a command.
    assert!(!press(&mut app, "/qWEX\x08"));
    assert!(app.is_editing && app.filter == "qWE");
    press(&mut app, "\x08\x08\x08web\n");
    assert_eq!((firsts(&app), app.is_editing), (vec!["shop/web".to_owned()], false));
    assert!(screen(&app).contains("filter: web (Esc clears)"), "{}", screen(&app));
    press(&mut app, "\x1b");
    assert_eq!(firsts(&app).len(), 3);
    press(&mut app, "/nothing\n");
    assert!(screen(&app).contains("nothing passes the filter"));
}

#[test]
fn a_pause_keeps_what_is_shown_and_trouble_is_told() {
    let mut app = app();
    press(&mut app, "p");
    app.update(Ok(Data::default()));
    assert_eq!(app.data.edges.len(), 3);
    assert!(screen(&app).contains("paused"));
    app.update(Err("no agent answers".into()));
    assert!(screen(&app).contains("no agent answers"));
    press(&mut app, "p");
    app.update(Ok(Data::default()));
    assert!(app.data.edges.is_empty() && app.trouble.is_none());
    assert!(screen(&app).contains("no traffic in the window"));
}

#[test]
fn the_list_is_scrolled_and_never_past_its_end() {
    let mut app = app();
    press(&mut app, "jjjjjj");
    assert_eq!(app.scrolled, 2);
    assert!(!screen(&app).contains("shop/web"));
    press(&mut app, "kkkkkkkk");
    assert_eq!(app.scrolled, 0);
}

#[test]
fn q_and_control_c_leave() {
    assert!(press(&mut app(), "q"));
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    let mut editing = app();
    press(&mut editing, "/");
    assert!(editing.key(interrupt));
    assert!(!press(&mut app(), "x"));
}

/// Takes `x`, and remembers that it did.
#[derive(Default)]
struct Own(usize);

impl Panel for Own {
    fn lines(&mut self) -> Vec<PanelLine> {
        Vec::new()
    }

    fn key(&mut self, key: char) -> bool {
        self.0 += usize::from(key == 'x');
        key == 'x'
    }
}

#[test]
fn a_panel_stands_above_the_keys_and_takes_its_own_but_none_that_is_typed() {
    let (mut app, mut own) = (app(), Own::default());
    let line = |text: &str| PanelLine { text: text.into(), mark: None };
    app.panel = vec![line("sent 12  failed 0"), line("x kill\x1b[2J")];
    insta::assert_snapshot!(screen(&app), @r"
    mesh-agent top   node node-a   last 60s   2026-11-30T16:00:00Z
     edges   services   routes    mesh-agent edges -o wide
    SRC            DST        SECURED  SUCCESS  RPS v    P50  P95  P99  TCP_CONN  FLAGS
    shop/web       shop/cart  yes      100.00%  10.0rps  -    -    -    3         -
    shop/batch     shop/cart  no       90.00%   1.0rps   -    -    -    3         -
    shop/idle?[2J  shop/cart  no       -        -        -    -    -    3         -
    sent 12  failed 0
    x kill?[2J
    Tab view   s sort   S reverse   / filter   p pause   q quit
    ");
    let mut press = |keys: &str, modifiers| {
        keys.chars().any(|c| {
            let code = if c == '\n' { KeyCode::Enter } else { KeyCode::Char(c) };
            crate::cli::top::press(&mut app, &mut own, KeyEvent::new(code, modifiers))
        })
    };
    assert!(!press("xpx", KeyModifiers::NONE));
    assert!(!press("/x\n", KeyModifiers::NONE) && !press("x", KeyModifiers::CONTROL));
    assert!(press("q", KeyModifiers::NONE));
    assert_eq!((own.0, app.is_paused, app.filter.as_str()), (2, true, "x"));
}

//! `mesh-agent demo --keys` on a terminal: each key does to the traffic what it says, a new agent costs no request, and
//! nothing is left of it.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use mesh_tests::lab::{Running, eventually};
use mesh_tests::pty::{ENTER, Screen};
use mesh_tests::{PATIENCE, agent_binary};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{left, nothing_left};

/// None where there is no agent to be tested.
fn keys() -> Option<Screen> {
    mesh_tests::agent_options()?;
    let mut command = Command::new(agent_binary().unwrap());
    command.args(["demo", "--keys"]);
    Some(Screen::start(command).unwrap())
}

/// Processes that this one has started, and theirs.
fn descendants(pid: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse::<u32>().ok());
    children.flat_map(|child| [vec![child], descendants(child)].concat()).collect()
}

/// Runs, or is stopped: not one that has ended and that nobody asked about.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// A line of the edges view.
#[derive(Clone, Debug)]
struct Edge {
    from: String,
    to: String,
    is_secured: bool,
    /// In per cent; none where nothing was asked.
    success: Option<f64>,
    /// Requests a second.
    rate: f64,
    flags: String,
}

impl Edge {
    fn of(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [from, to, secured @ ("yes" | "no"), success, rate, _, _, _, _, flags @ ..] = words.as_slice()
        else {
            return None;
        };
        Some(Self {
            from: from.trim_start_matches("shop/").to_owned(),
            to: to.trim_start_matches("shop/").to_owned(),
            is_secured: *secured == "yes",
            success: success.trim_end_matches('%').parse().ok(),
            rate: rate.trim_end_matches("rps").parse().unwrap_or(0.0),
            flags: flags.join(" "),
        })
    }
}

/// Waits until the edges are as wanted. Those of a moment ago go by with the window.
fn edges(screen: &Screen, what: &str, are: impl Fn(&[Edge]) -> bool) {
    eventually(PATIENCE * 2, || {
        let shown = screen.drawn();
        let found: Vec<Edge> = shown.lines().filter_map(Edge::of).collect();
        ensure!(are(&found), "not so: {what}\n{shown}");
        Ok(())
    })
    .unwrap();
}

/// What passes to an endpoint in a second.
fn rate(edges: &[Edge], to: &str) -> f64 {
    edges.iter().filter(|edge| edge.to == to).map(|edge| edge.rate).sum()
}

/// The edges between these.
fn between<'e>(edges: &'e [Edge], from: &'e str, to: &'e str) -> impl Iterator<Item = &'e Edge> {
    edges.iter().filter(move |edge| edge.from == from && edge.to.starts_with(to))
}

/// Figures of `since KEY: sent N  denied N  failed N`.
fn since(screen: &Screen, key: char) -> Result<[u64; 3]> {
    let shown = screen.drawn();
    let (_, rest) = shown.split_once(&format!("since {key}: ")).with_context(|| format!("in {shown}"))?;
    let words: Vec<&str> = rest.split_whitespace().take(6).collect();
    match words.as_slice() {
        ["sent", sent, "denied", denied, "failed", failed] => {
            Ok([sent.parse()?, denied.parse()?, failed.parse()?])
        }
        _ => anyhow::bail!("{words:?} in {shown}"),
    }
}

/// Presses a key, waits until it is done, and until so many requests were sent since; those denied and failed.
fn press(screen: &mut Screen, key: char, sent: u64) -> [u64; 2] {
    screen.press(&key.to_string()).unwrap();
    screen.shows(PATIENCE * 2, &[&format!("{key} took ")]).unwrap();
    eventually(PATIENCE, || {
        let [so_far, denied, failed] = since(screen, key)?;
        ensure!(so_far >= sent, "{so_far} of {sent}");
        Ok([denied, failed])
    })
    .unwrap()
}

#[test]
fn keys_change_the_traffic_and_a_new_agent_costs_no_request() {
    let Some(mut screen) = keys() else { return };
    let first = "c canary 90/10  x kill cart-2  d deny batch  m node mTLS  u new agent  r crash";
    screen.shows(PATIENCE * 2, &["2 nodes", first, "sent "]).unwrap();
    let (pid, started) = (screen.pid(), descendants(screen.pid()));
    assert!(started.len() > 8 && left(pid).len() > 3, "{started:?}");
    edges(&screen, "a lock between the nodes, none within", |edges| {
        between(edges, "web", "vault").any(|edge| edge.is_secured && edge.success == Some(100.0))
            && ["cart-1", "cart-2", "cart-3"].iter().all(|to| rate(edges, to) > 0.0)
            && edges.iter().all(|edge| edge.is_secured == (edge.to == "vault"))
    });

    // The canary: cart-3 is v2.
    assert_eq!(press(&mut screen, 'c', 50)[1], 0);
    edges(&screen, "a tenth to v2", |edges| {
        let v1 = rate(edges, "cart-1") + rate(edges, "cart-2");
        (0.02..0.15).contains(&(rate(edges, "cart-3") / (v1 + rate(edges, "cart-3"))))
    });
    screen.shows(PATIENCE, &["c canary 50/50", "90 % of cart's requests to v1"]).unwrap();
    screen.press("\t").unwrap();
    screen.shows(PATIENCE, &["mesh-agent stat svc", " cart-v1 ", " cart-v2 "]).unwrap();
    screen.press("\t\t").unwrap();

    // An endpoint. What was under way there may fail, and isn't denied.
    assert_eq!(press(&mut screen, 'x', 50)[0], 0);
    screen.shows(PATIENCE, &["x start cart-2"]).unwrap();
    edges(&screen, "cart-2 is asked no more", |edges| {
        rate(edges, "cart-2") < 1.0 && rate(edges, "cart-1") > 1.0
    });
    press(&mut screen, 'x', 50);
    screen.shows(PATIENCE, &["x kill cart-2"]).unwrap();

    // A policy: answers, not failures.
    let [denied, failed] = press(&mut screen, 'd', 100);
    assert!(denied > 0 && failed == 0, "{denied} denied, {failed} failed");
    screen.shows(PATIENCE, &["d admit batch"]).unwrap();
    edges(&screen, "policies deny batch, and batch alone", |edges| {
        between(edges, "batch", "cart-").any(|edge| edge.flags.contains("DENY="))
            && between(edges, "web", "").all(|edge| !edge.flags.contains("DENY="))
    });

    // Another agent under load. The denied stay denied.
    let [denied, failed] = press(&mut screen, 'u', 200);
    assert!(denied > 0 && failed == 0, "{denied} denied, {failed} failed\n{}", screen.drawn());
    assert_eq!(press(&mut screen, 'd', 50)[1], 0);

    // And one that encrypts within the node.
    assert_eq!(press(&mut screen, 'm', 100)[1], 0, "{}", screen.drawn());
    edges(&screen, "a lock within the node", |edges| {
        between(edges, "web", "cart-").any(|edge| edge.is_secured && edge.success == Some(100.0))
            && between(edges, "batch", "cart-").any(|edge| edge.is_secured)
    });
    screen.shows(PATIENCE, &["m mTLS off"]).unwrap();
    assert_eq!(press(&mut screen, 'm', 100)[1], 0, "{}", screen.drawn());
    edges(&screen, "none within again", |edges| between(edges, "web", "cart-").any(|edge| !edge.is_secured));

    // One that is killed and comes back costs requests of who fails closed, and they are put down to it.
    let failed = press(&mut screen, 'r', 50)[1];
    assert!(failed > 0, "{}", screen.drawn());

    screen.press("q").unwrap();
    screen.leaves(PATIENCE * 2).unwrap();
    nothing_left(pid);
    eventually(PATIENCE, || {
        let alive: Vec<_> = started.iter().filter(|pid| is_alive(**pid)).collect();
        ensure!(alive.is_empty(), "{alive:?} still run");
        Ok(())
    })
    .unwrap();
}

#[test]
fn keys_give_the_terminal_back_whatever_ends_them() {
    for way in [Some(Signal::SIGTERM), Some(Signal::SIGHUP), None] {
        let Some(mut screen) = keys() else { return };
        screen.shows(PATIENCE * 2, &["press a key", "shop/web"]).unwrap();
        assert!(screen.written().contains(ENTER) && !screen.is_cooked().unwrap());
        let pid = screen.pid();
        match way {
            Some(signal) => kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap(),
            None => screen.press("\x03").unwrap(),
        }
        screen.leaves(PATIENCE * 2).unwrap();
        nothing_left(pid);
    }
}

#[test]
fn keys_need_a_terminal_and_go_with_no_phases() {
    for args in [&["--keys"][..], &["--keys", "--once"], &["--keys", "-o", "json"]] {
        let mut command = Command::new(agent_binary().unwrap());
        command.arg("demo").args(args);
        let ended = Running::start(command).unwrap().finish(PATIENCE).unwrap();
        assert_eq!(ended.code, 64, "{ended:?}");
        if args.len() == 1 {
            assert!(ended.stderr.contains("draws on a terminal"), "{ended:?}");
            assert!(ended.stderr.contains("hint: `mesh-agent demo`"), "{ended:?}");
        }
    }
}

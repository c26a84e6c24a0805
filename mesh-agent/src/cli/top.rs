//! `top`: edges, services and routes on a terminal, once a second: to be sorted, filtered and paused.
//!
//! A thread asks the agents, so that a slow one holds no key up; `app` is what is shown and what keys do to it, `draw` how
//! it looks. Another command may have lines and keys of its own there: `Panel`. The terminal is given back as it was on every way out, signals and panics included.

mod app;
mod draw;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEvent, KeyEventKind};

use super::live::LiveArgs;
use super::live::fleet::Fleet;
use super::output::Out;
use super::style::Mark;
use super::{Exit, Failure, Outcome, edges, routes, stat};
use app::{App, Data};

/// How often agents are asked.
const EVERY: Duration = Duration::from_secs(1);
/// A key shows at once, and what the agents say so much later at most.
const TICK: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct TopArgs {
    #[command(flatten)]
    live: LiveArgs,
}

/// What another command shows below the table, and the keys that are its own.
pub(super) trait Panel {
    /// Its lines, each time that the screen is drawn. Never waits.
    fn lines(&mut self) -> Vec<PanelLine>;
    /// True if it takes this key, which then means nothing else.
    fn key(&mut self, key: char) -> bool;
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PanelLine {
    pub text: String,
    pub mark: Option<Mark>,
}

/// `top` without more.
struct NoPanel;

impl Panel for NoPanel {
    fn lines(&mut self) -> Vec<PanelLine> {
        Vec::new()
    }

    fn key(&mut self, _: char) -> bool {
        false
    }
}

pub(super) fn run(args: &TopArgs, out: &mut Out<'_>) -> Outcome {
    if !out.style.terminal {
        return Err(Failure::message(Exit::Usage, "top draws on a terminal, and stdout isn't one")
            .hint("`mesh-agent stat -w` and `mesh-agent edges -o json` are for pipes"));
    }
    let agent = args.live.agent.clone();
    let fleet = move || Fleet::of(&agent);
    let stop = Arc::new(AtomicBool::new(false));
    let watch = || watch_signals(stop.clone());
    on_screen(fleet, &args.live, out.style.color, watch, &stop, &mut NoPanel)
}

/// Over these agents of this machine, with a panel, until `stop` is true or the user leaves. `window` as in `-t`.
pub(super) fn with_panel(
    agents: &[(String, PathBuf)],
    window: Duration,
    color: bool,
    stop: &AtomicBool,
    panel: &mut dyn Panel,
) -> Outcome {
    let (agents, live) = (agents.to_vec(), LiveArgs::over(window));
    on_screen(move || Fleet::on_this_machine(&agents), &live, color, || Ok(()), stop, panel)
}

fn on_screen(
    fleet: impl Fn() -> Result<Fleet, Failure> + Send + 'static,
    live: &LiveArgs,
    color: bool,
    watch: impl FnOnce() -> io::Result<()>,
    stop: &AtomicBool,
    panel: &mut dyn Panel,
) -> Outcome {
    let first = fetch(&fleet()?, live)?;
    let (sender, receiver) = sync_channel(1);
    let asking = live.clone();
    let ask = move || keep_asking(fleet(), &asking, &sender);
    std::thread::Builder::new().name("top-fetch".into()).spawn(ask)?;
    watch()?;
    let mut screen = Screen::enter()?;
    let mut app = App::new(first, color, live.clone());
    show(&mut screen.0, &mut app, panel, &receiver, stop)?;
    Ok(Exit::Ok)
}

/// The terminal, given back when this is dropped; ratatui's own hook does so before a panic is told.
struct Screen(DefaultTerminal);

impl Screen {
    fn enter() -> io::Result<Self> {
        ratatui::try_init().map(Self).inspect_err(|_| ratatui::restore())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // One that has hung up can't be given back.
        let _ = ratatui::try_restore();
    }
}

fn show(
    terminal: &mut DefaultTerminal,
    app: &mut App,
    panel: &mut dyn Panel,
    data: &Receiver<Result<Data, String>>,
    stop: &AtomicBool,
) -> io::Result<()> {
    while !stop.load(Relaxed) {
        app.panel = panel.lines();
        terminal.draw(|frame| draw::draw(app, frame))?;
        if event::poll(TICK)?
            && let Event::Key(key) = event::read()?
            && key.kind != KeyEventKind::Release
            && press(app, panel, key)
        {
            return Ok(());
        }
        while let Ok(fresh) = data.try_recv() {
            app.update(fresh);
        }
    }
    Ok(())
}

/// The panel's keys come first, but for those that are typed into the filter. True if it was the key to leave by.
fn press(app: &mut App, panel: &mut dyn Panel, key: KeyEvent) -> bool {
    if !app.key_of_panel(key).is_some_and(|key| panel.key(key)) {
        return app.key(key);
    }
    false
}

fn keep_asking(fleet: Result<Fleet, Failure>, live: &LiveArgs, data: &SyncSender<Result<Data, String>>) {
    loop {
        let fresh = match &fleet {
            Ok(fleet) => fetch(fleet, live).map_err(|failure| failure.to_string()),
            Err(failure) => Err(failure.to_string()),
        };
        if data.send(fresh).is_err() {
            return;
        }
        // The pace of the whole view.
        std::thread::sleep(EVERY);
    }
}

fn fetch(fleet: &Fleet, live: &LiveArgs) -> Result<Data, Failure> {
    let seen = stat::seen(fleet, live)?;
    let routes = fleet.get(&live.path("routes"))?;
    Ok(Data {
        at: seen.edges.iter().map(|node| node.at.clone()).max().unwrap_or_default(),
        nodes: seen.edges.iter().map(|node| node.node.clone()).collect(),
        edges: edges::pairs(live, &seen.edges),
        services: stat::stats(stat::Kind::Service, live, &seen),
        routes: routes::rules(live, &routes),
    })
}

/// Ctrl-C is a key here; these come from elsewhere.
fn watch_signals(stop: Arc<AtomicBool>) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let guard = runtime.enter();
    let (mut terminate, mut hang_up, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?, signal(SignalKind::interrupt())?);
    drop(guard);
    let wait = move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = hang_up.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        stop.store(true, Relaxed);
    };
    std::thread::Builder::new().name("top-signals".into()).spawn(wait)?;
    Ok(())
}

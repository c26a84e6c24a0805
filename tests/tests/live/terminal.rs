//! `top` on a terminal: what it draws is the traffic, and the terminal is left as it was on every way out.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use mesh_tests::lab::eventually;
use mesh_tests::{SOON, agent_binary};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::{need_nodes, send, serve};

/// Into and out of the screen that programs draw on.
const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";

/// `top` on a pseudo-terminal of its own.
struct Top {
    child: Child,
    keyboard: File,
    /// Kept, so that what is set of it can be looked at.
    terminal: File,
    screen: Arc<Mutex<Vec<u8>>>,
}

impl Top {
    fn start(state_dir: &std::path::Path) -> Result<Self> {
        let master: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        tcsetwinsize(&master, Winsize { ws_row: 24, ws_col: 140, ws_xpixel: 0, ws_ypixel: 0 })?;
        let name = ptsname(&master, Vec::new())?.into_string()?;
        let noctty = nix::libc::O_NOCTTY;
        let terminal = OpenOptions::new().read(true).write(true).custom_flags(noctty).open(&name)?;
        let child = Command::new(agent_binary()?)
            .args(["top", "-t", "10m"])
            .env("MESH_AGENT_STATE_DIR", state_dir)
            .env("TERM", "xterm")
            .stdin(Stdio::from(terminal.try_clone()?))
            .stdout(Stdio::from(terminal.try_clone()?))
            .stderr(Stdio::from(terminal.try_clone()?))
            .spawn()?;
        let keyboard = File::from(master);
        let (screen, mut output) = (Arc::<Mutex<Vec<u8>>>::default(), keyboard.try_clone()?);
        let seen = screen.clone();
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut piece) {
                seen.lock().unwrap().extend_from_slice(&piece[..read]);
            }
        });
        Ok(Self { child, keyboard, terminal, screen })
    }

    /// Everything that it has written.
    fn written(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }

    /// Waits until all of it stands on the screen.
    fn shows(&self, words: &[&str]) -> Result<()> {
        eventually(SOON, || {
            let shown = drawn(&self.written());
            for word in words {
                ensure!(shown.contains(word), "{word:?} isn't in\n{shown}");
            }
            Ok(())
        })
    }

    fn press(&mut self, keys: &str) -> Result<()> {
        self.keyboard.write_all(keys.as_bytes()).context("typing")
    }

    /// Echoes and takes lines, as shells want it.
    fn is_cooked(&self) -> Result<bool> {
        let modes = tcgetattr(&self.terminal)?.local_modes;
        Ok(modes.contains(LocalModes::ICANON | LocalModes::ECHO))
    }

    /// Waits for its end, and holds that the terminal is what it was.
    fn leaves(mut self) -> Result<()> {
        eventually(SOON, || {
            let status = self.child.try_wait()?.context("it still runs")?;
            ensure!(status.success(), "{status}: {}", self.written());
            Ok(())
        })?;
        eventually(SOON, || {
            ensure!(
                self.written().contains(LEAVE),
                "the shell's own screen isn't back: {:?}",
                self.written()
            );
            Ok(())
        })?;
        ensure!(self.is_cooked()?, "the terminal stays raw");
        Ok(())
    }
}

/// What a terminal has on its screen after this: places and text, no colours. Only what changes is drawn again.
fn drawn(written: &str) -> String {
    let mut cells = vec![vec![' '; 140]; 24];
    let (mut row, mut column) = (0, 0);
    let mut rest = written.chars();
    while let Some(c) = rest.next() {
        if c != '\x1b' {
            if let Some(cell) = cells.get_mut(row).and_then(|row| row.get_mut(column)) {
                *cell = c;
            }
            column += 1;
            continue;
        }
        if rest.next() != Some('[') {
            continue;
        }
        let mut sequence = String::new();
        let end = rest.by_ref().find(|c| {
            let ends = c.is_ascii_alphabetic();
            if !ends {
                sequence.push(*c);
            }
            ends
        });
        match end {
            Some('H') => {
                let mut place = sequence.split(';').map(|n| n.parse::<usize>().unwrap_or(1) - 1);
                (row, column) = (place.next().unwrap_or(0), place.next().unwrap_or(0));
            }
            Some('J') => cells.iter_mut().for_each(|row| row.fill(' ')),
            _ => {}
        }
    }
    cells.into_iter().map(|row| row.into_iter().collect::<String>().trim_end().to_owned() + "\n").collect()
}

impl Drop for Top {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn top_draws_the_traffic_and_leaves_by_key_and_by_signal() {
    let nodes = need_nodes!();
    let (_server, _, service) = serve(nodes, &nodes.cart, "drawn");
    send(nodes, service, "/", 4, 200);
    let mut top = Top::start(nodes.near.state_dir()).unwrap();
    top.shows(&["node node-a", "shop/web", "shop/cart"]).unwrap();
    assert!(top.written().contains(ENTER));
    assert!(!top.is_cooked().unwrap(), "keys are taken one by one");
    top.press("\t").unwrap();
    top.shows(&["mesh-agent stat svc", "drawn"]).unwrap();
    top.press("/no-such-thing\r").unwrap();
    top.shows(&["nothing passes"]).unwrap();
    top.press("q").unwrap();
    top.leaves().unwrap();

    let mut interrupted = Top::start(nodes.near.state_dir()).unwrap();
    interrupted.shows(&["shop/web"]).unwrap();
    interrupted.press("\x03").unwrap();
    interrupted.leaves().unwrap();

    let terminated = Top::start(nodes.near.state_dir()).unwrap();
    terminated.shows(&["shop/web"]).unwrap();
    kill(Pid::from_raw(i32::try_from(terminated.child.id()).unwrap()), Signal::SIGTERM).unwrap();
    terminated.leaves().unwrap();
}

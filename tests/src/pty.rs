//! A program on a pseudo-terminal of its own: what stands on its screen, keys for it, and how it leaves the terminal.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::lab::eventually;

/// Into the screen that programs draw on.
pub const ENTER: &str = "\x1b[?1049h";
/// And out of it.
pub const LEAVE: &str = "\x1b[?1049l";

const ROWS: u16 = 24;
const COLUMNS: u16 = 140;

/// The program, killed on drop.
pub struct Screen {
    child: Child,
    keyboard: File,
    /// Kept, so that what is set of it can be looked at.
    terminal: File,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Screen {
    /// Starts it on a terminal of 24 rows and 140 columns.
    pub fn start(mut command: Command) -> Result<Self> {
        let master: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        tcsetwinsize(&master, Winsize { ws_row: ROWS, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 })?;
        let name = ptsname(&master, Vec::new())?.into_string()?;
        let noctty = nix::libc::O_NOCTTY;
        let terminal = OpenOptions::new().read(true).write(true).custom_flags(noctty).open(&name)?;
        command
            .env("TERM", "xterm")
            .stdin(Stdio::from(terminal.try_clone()?))
            .stdout(Stdio::from(terminal.try_clone()?))
            .stderr(Stdio::from(terminal.try_clone()?));
        let child = command.spawn()?;
        let keyboard = File::from(master);
        let (written, mut output) = (Arc::<Mutex<Vec<u8>>>::default(), keyboard.try_clone()?);
        let seen = written.clone();
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut piece) {
                let fresh = piece.get(..read).unwrap_or_default();
                seen.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(fresh);
            }
        });
        Ok(Self { child, keyboard, terminal, written })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it has written.
    pub fn written(&self) -> String {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&written).into_owned()
    }

    /// What stands on the screen: places and text, no colours.
    pub fn drawn(&self) -> String {
        drawn(&self.written())
    }

    /// Waits until all of it stands on the screen.
    pub fn shows(&self, deadline: Duration, words: &[&str]) -> Result<()> {
        eventually(deadline, || {
            let shown = self.drawn();
            for word in words {
                ensure!(shown.contains(word), "{word:?} isn't in\n{shown}");
            }
            Ok(())
        })
    }

    /// Types.
    pub fn press(&mut self, keys: &str) -> Result<()> {
        self.keyboard.write_all(keys.as_bytes()).context("typing")
    }

    /// Echoes and takes lines, as shells want it.
    pub fn is_cooked(&self) -> Result<bool> {
        let modes = tcgetattr(&self.terminal)?.local_modes;
        Ok(modes.contains(LocalModes::ICANON | LocalModes::ECHO))
    }

    /// Waits for its end with 0, and holds that the terminal is what it was.
    pub fn leaves(mut self, deadline: Duration) -> Result<()> {
        eventually(deadline, || {
            let status = self.child.try_wait()?.context("it still runs")?;
            ensure!(status.success(), "{status}: {}", self.written());
            Ok(())
        })?;
        eventually(deadline, || {
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

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a terminal has on its screen after this. Only what changes is drawn again.
fn drawn(written: &str) -> String {
    let mut cells = vec![vec![' '; usize::from(COLUMNS)]; usize::from(ROWS)];
    let (mut row, mut column) = (0, 0);
    // The screen that it draws on is empty at first, whatever was written before.
    let mut rest = written.rsplit(ENTER).next().unwrap_or_default().chars();
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

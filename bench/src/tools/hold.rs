//! Opens connections, makes one exchange on each and keeps them open, idle, until its standard input ends.

use std::io::Read;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::dial::{REQUEST, read_answer};
use super::{block_on, say_ready};

#[derive(clap::Args)]
pub struct Args {
    /// Where to
    to: SocketAddr,
    /// How many
    #[arg(long)]
    connections: usize,
}

pub fn run(args: &Args) -> Result<()> {
    block_on(async {
        let mut held = Vec::with_capacity(args.connections);
        for number in 0..args.connections {
            let mut stream =
                TcpStream::connect(args.to).await.with_context(|| format!("connection {number}"))?;
            stream.write_all(REQUEST).await?;
            read_answer(&mut stream).await.with_context(|| format!("answer on connection {number}"))?;
            held.push(stream);
        }
        say_ready();
        // Nothing else is to be done on this thread, so it may wait the plain way.
        std::io::stdin().read_to_end(&mut Vec::new())?;
        Ok(())
    })
}

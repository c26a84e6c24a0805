//! A bare tokio copy loop: the floor for opaque TCP. Behind iptables REDIRECT it recovers the original destination.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::spawn_local;

use super::{block_on, listen, say_ready};

#[derive(clap::Args)]
pub struct Args {
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
    /// Where every connection goes; without it, to the destination before REDIRECT
    #[arg(long)]
    to: Option<SocketAddr>,
    /// Mark of upstream sockets, which the REDIRECT rule leaves alone
    #[arg(long)]
    mark: Option<u32>,
}

pub fn run(args: &Args) -> Result<()> {
    let (to, mark) = (args.to, args.mark);
    block_on(async {
        let listener = listen(args.listen)?;
        say_ready();
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            spawn_local(async move {
                // A connection that fails is seen by the client, which counts it.
                let _ = copy(stream, to, mark).await;
            });
        }
    })
}

async fn copy(mut client: TcpStream, to: Option<SocketAddr>, mark: Option<u32>) -> Result<()> {
    client.set_nodelay(true)?;
    let to = match to {
        Some(to) => to,
        None => SockRef::from(&client).original_dst_v4()?.as_socket().context("an IPv4 destination")?,
    };
    let socket = TcpSocket::new_v4()?;
    if let Some(mark) = mark {
        SockRef::from(&socket).set_mark(mark)?;
    }
    let mut server = socket.connect(to).await?;
    server.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

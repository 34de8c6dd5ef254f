//! Two ends of a connection over loopback, for the tests of what speaks over it.

use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, spawn_local};

use super::Error;
use super::wire::{Link, Wire};
use crate::net::stream::Socket;
use crate::net::{Prefixed, Stream};

/// Runs a test on one thread, in bounded time.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(60), test)
            .await
            .expect("the test ends");
    });
}

/// A connection's two ends.
pub(crate) async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (client.unwrap(), accepted.unwrap().0)
}

/// Drives one end; tells how it ended.
pub(crate) fn drive<L: Link + 'static>(
    link: &Rc<L>,
    socket: TcpStream,
    mut begun: impl FnMut(L::Begun) + 'static,
) -> JoinHandle<Error> {
    let link = Rc::clone(link);
    let stream = Stream::Plain(Prefixed::new(Bytes::new(), Socket::Tcp(socket)));
    spawn_local(async move {
        let mut wire = Wire::new(stream);
        let ended = std::future::poll_fn(|cx| wire.poll(&link, cx, &mut begun)).await;
        link.close(ended);
        std::future::poll_fn(|cx| wire.poll_close(&*link, cx)).await;
        ended
    })
}

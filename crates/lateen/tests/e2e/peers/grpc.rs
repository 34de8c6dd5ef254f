//! A gRPC service by tonic, and a client of it: every kind of call, errors before, between and after messages.

use std::convert::Infallible;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt as _, stream};
use http::uri::PathAndQuery;
use serde_json::Value;
use tonic::body::Body;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::server::NamedService;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::Service;

/// The only message.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Text {
    #[prost(string, tag = "1")]
    pub(crate) text: String,
}

pub(crate) fn text(text: impl Into<String>) -> Text {
    Text { text: text.into() }
}

type Codec = ProstCodec<Text, Text>;

/// `lateen.test.Peer`: `Say`, `Count`, `Join`, `Echo`, `Fail`, `Late`, `Meta`, `Watch`, `Watching`.
#[derive(Clone)]
struct Peer {
    name: String,
    watching: Arc<AtomicUsize>,
}

/// Counts a call as long as it is not over.
struct Watch(Arc<AtomicUsize>);

impl Watch {
    fn new(watching: &Arc<AtomicUsize>) -> Self {
        watching.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(watching))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl NamedService for Peer {
    const NAME: &'static str = "lateen.test.Peer";
}

impl Service<http::Request<Body>> for Peer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let peer = self.clone();
        Box::pin(async move { Ok(answer(peer, request).await) })
    }
}

async fn answer(peer: Peer, request: http::Request<Body>) -> http::Response<Body> {
    const LARGEST: usize = 16 << 20;
    let mut grpc = tonic::server::Grpc::new(Codec::default()).max_decoding_message_size(LARGEST);
    let method = request.uri().path().rsplit('/').next().unwrap_or_default();
    match method.to_owned().as_str() {
        "Count" => {
            let service =
                tower::service_fn(|r: Request<Text>| async move { count(&r.get_ref().text) });
            grpc.server_streaming(service, request).await
        }
        "Watch" => {
            let service = tower::service_fn(move |_: Request<Text>| {
                let watch = Watch::new(&peer.watching);
                async move { Ok::<_, Status>(Response::new(watched(watch))) }
            });
            grpc.server_streaming(service, request).await
        }
        "Join" => {
            let service = tower::service_fn(|r: Request<Streaming<Text>>| join(r.into_inner()));
            grpc.client_streaming(service, request).await
        }
        "Echo" => {
            let service = tower::service_fn(|r: Request<Streaming<Text>>| async move {
                Ok::<_, Status>(Response::new(r.into_inner()))
            });
            grpc.streaming(service, request).await
        }
        method @ ("Say" | "Fail" | "Late" | "Meta" | "Watching") => {
            let method = method.to_owned();
            let service = tower::service_fn(move |r| unary(method.clone(), peer.clone(), r));
            grpc.unary(service, request).await
        }
        _ => Status::unimplemented("no such method").into_http(),
    }
}

async fn unary(
    method: String,
    peer: Peer,
    request: Request<Text>,
) -> Result<Response<Text>, Status> {
    let asked = &request.get_ref().text;
    match method.as_str() {
        "Fail" => {
            let code = asked
                .parse()
                .map_err(|_| Status::invalid_argument("no code"))?;
            let mut status = Status::new(tonic::Code::from_i32(code), "as asked: 100% \u{e9}");
            let detail = tonic::metadata::MetadataValue::from_bytes(&[0, 255, 7]);
            status.metadata_mut().insert_bin("detail-bin", detail);
            Err(status)
        }
        "Watching" => {
            let watching = peer.watching.load(Ordering::Relaxed);
            Ok(Response::new(text(watching.to_string())))
        }
        "Late" => {
            let _watch = Watch::new(&peer.watching);
            let wait = asked
                .parse()
                .map_err(|_| Status::invalid_argument("no time"))?;
            tokio::time::sleep(Duration::from_millis(wait)).await;
            Ok(Response::new(text("late")))
        }
        "Meta" => {
            let mut response = Response::new(text("meta"));
            for key in ["x-ascii", "x-request-id"] {
                if let Some(value) = request.metadata().get(key) {
                    response.metadata_mut().insert(key, value.clone());
                }
            }
            if let Some(value) = request.metadata().get_bin("x-binary-bin") {
                response
                    .metadata_mut()
                    .insert_bin("x-binary-bin", value.clone());
            }
            Ok(response)
        }
        _ => Ok(Response::new(text(format!("{}: {asked}", peer.name)))),
    }
}

/// One message, and nothing more until the call is given up.
fn watched(watch: Watch) -> impl Stream<Item = Result<Text, Status>> {
    let first = stream::iter([Ok(text("watching"))]);
    first.chain(stream::once(async move {
        let _watch = watch;
        std::future::pending().await
    }))
}

/// `5`: 1 to 5. `5!`: the same, then an error.
fn count(
    asked: &str,
) -> Result<Response<impl Stream<Item = Result<Text, Status>> + use<>>, Status> {
    let (number, breaks) = match asked.strip_suffix('!') {
        Some(number) => (number, true),
        None => (asked, false),
    };
    let number: u32 = number
        .parse()
        .map_err(|_| Status::invalid_argument("no number"))?;
    let end = breaks.then(|| Err(Status::aborted("broken off as asked")));
    let numbers = (1..=number).map(|n| Ok(text(n.to_string())));
    Ok(Response::new(stream::iter(numbers.chain(end))))
}

async fn join(mut words: Streaming<Text>) -> Result<Response<Text>, Status> {
    let mut all = Vec::new();
    while let Some(word) = words.message().await? {
        all.push(word.text);
    }
    Ok(Response::new(text(all.join(" "))))
}

pub(super) async fn serve(port: u16, name: &str) -> Value {
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let peer = Peer {
        name: name.to_owned(),
        watching: Arc::default(),
    };
    let router = tonic::transport::Server::builder().add_service(peer);
    router.serve(address).await.unwrap();
    Value::Null
}

/// A client by tonic.
pub(crate) struct Client(tonic::client::Grpc<Channel>);

impl Client {
    pub(crate) fn new(url: &str) -> Self {
        Self::on(Channel::from_shared(url.to_owned()).unwrap().connect_lazy())
    }

    /// One that asks so often whether its connection lives, calls or not, and gives it up where that is not answered.
    pub(crate) fn with_keepalive(url: &str, interval: Duration) -> Self {
        let endpoint = Channel::from_shared(url.to_owned()).unwrap();
        let endpoint = endpoint
            .http2_keep_alive_interval(interval)
            .keep_alive_timeout(Duration::from_secs(2))
            .keep_alive_while_idle(true);
        Self::on(endpoint.connect_lazy())
    }

    fn on(channel: Channel) -> Self {
        Self(tonic::client::Grpc::new(channel).max_decoding_message_size(16 << 20))
    }

    async fn ready(&mut self) -> Result<(), Status> {
        let ready = self.0.ready().await;
        ready.map_err(|error| Status::unknown(error.to_string()))
    }

    pub(crate) async fn unary(
        &mut self,
        method: &str,
        request: Request<Text>,
    ) -> Result<Response<Text>, Status> {
        self.ready().await?;
        self.0.unary(request, path(method), Codec::default()).await
    }

    pub(crate) async fn say(&mut self, word: &str) -> Result<String, Status> {
        let answer = self.unary("Say", Request::new(text(word))).await?;
        Ok(answer.into_inner().text)
    }

    pub(crate) async fn count(&mut self, asked: &str) -> Result<Streaming<Text>, Status> {
        self.stream("Count", asked).await
    }

    /// Messages that come until the call is given up.
    pub(crate) async fn watch(&mut self) -> Result<Streaming<Text>, Status> {
        self.stream("Watch", "").await
    }

    /// Calls the server works on, by now.
    pub(crate) async fn watching(&mut self) -> Result<String, Status> {
        let answer = self.unary("Watching", Request::new(text(""))).await?;
        Ok(answer.into_inner().text)
    }

    async fn stream(&mut self, method: &str, asked: &str) -> Result<Streaming<Text>, Status> {
        self.ready().await?;
        let request = Request::new(text(asked));
        let answer = self
            .0
            .server_streaming(request, path(method), Codec::default());
        Ok(answer.await?.into_inner())
    }

    pub(crate) async fn join(&mut self, words: Vec<Text>) -> Result<String, Status> {
        self.ready().await?;
        let request = Request::new(stream::iter(words));
        let answer = self
            .0
            .client_streaming(request, path("Join"), Codec::default());
        Ok(answer.await?.into_inner().text)
    }

    /// A sender of words, and the stream on which they come back.
    pub(crate) async fn echo(
        &mut self,
    ) -> Result<(tokio::sync::mpsc::Sender<Text>, Streaming<Text>), Status> {
        self.ready().await?;
        let (sender, words) = tokio::sync::mpsc::channel(1);
        let request = Request::new(ReceiverStream::new(words).boxed());
        let answer = self.0.streaming(request, path("Echo"), Codec::default());
        Ok((sender, answer.await?.into_inner()))
    }
}

fn path(method: &str) -> PathAndQuery {
    format!("/{}/{method}", Peer::NAME).parse().unwrap()
}

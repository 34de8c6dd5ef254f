//! A gRPC service by tonic, and a client of it: every kind of call, errors before, between and after messages.

use std::convert::Infallible;
use std::net::{Ipv6Addr, SocketAddr};
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

/// `lateen.test.Peer`: `Say`, `Count`, `Join`, `Echo`, `Fail`, `Late`, `Meta`.
#[derive(Clone)]
struct Peer {
    name: String,
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
        let name = self.name.clone();
        Box::pin(async move { Ok(answer(name, request).await) })
    }
}

async fn answer(name: String, request: http::Request<Body>) -> http::Response<Body> {
    const LARGEST: usize = 16 << 20;
    let mut grpc = tonic::server::Grpc::new(Codec::default()).max_decoding_message_size(LARGEST);
    let method = request.uri().path().rsplit('/').next().unwrap_or_default();
    match method.to_owned().as_str() {
        "Count" => {
            let service =
                tower::service_fn(|r: Request<Text>| async move { count(&r.get_ref().text) });
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
        method @ ("Say" | "Fail" | "Late" | "Meta") => {
            let method = method.to_owned();
            let service = tower::service_fn(move |r| unary(method.clone(), name.clone(), r));
            grpc.unary(service, request).await
        }
        _ => Status::unimplemented("no such method").into_http(),
    }
}

async fn unary(
    method: String,
    name: String,
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
        "Late" => {
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
        _ => Ok(Response::new(text(format!("{name}: {asked}")))),
    }
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
    };
    let router = tonic::transport::Server::builder().add_service(peer);
    router.serve(address).await.unwrap();
    Value::Null
}

/// A client by tonic.
pub(crate) struct Client(tonic::client::Grpc<Channel>);

impl Client {
    pub(crate) fn new(url: &str) -> Self {
        let channel = Channel::from_shared(url.to_owned()).unwrap().connect_lazy();
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
        self.ready().await?;
        let request = Request::new(text(asked));
        let answer = self
            .0
            .server_streaming(request, path("Count"), Codec::default());
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

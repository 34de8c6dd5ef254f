//! The way of a stock Envoy to the control plane: ADS on a Unix socket, passed on to istiod over mTLS.
//!
//! Streams of both variants are passed through as bytes; nothing is parsed, so nothing is lost, and back-pressure is HTTP/2's. When
//! the control plane goes away the stream ends, Envoy keeps its last good configuration and asks again.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use lateen_envoy::with_causes;
use lateen_identity::rotation::IdentityHandle;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::Channel;
use tower::Service;

/// The two methods that are passed on; the control plane's other services are none of the proxy's business.
const METHODS: [&str; 2] = ["StreamAggregatedResources", "DeltaAggregatedResources"];

/// Passes ADS streams on to a channel.
#[derive(Clone, Debug)]
pub struct AdsProxy {
    upstream: Channel,
    identity: IdentityHandle,
}

impl AdsProxy {
    /// Passes on to `upstream`, once there is a certificate to connect with.
    pub fn new(upstream: Channel, identity: IdentityHandle) -> Self {
        Self { upstream, identity }
    }
}

impl NamedService for AdsProxy {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

impl Service<Request<Body>> for AdsProxy {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (upstream, identity) = (self.upstream.clone(), self.identity.clone());
        Box::pin(async move {
            // A stream that came too early waits here; refused, it would come back only after Envoy's own back-off.
            if identity.ready().await.is_err() {
                return Ok(Status::unavailable("the agent is ending").into_http());
            }
            Ok(pass_on(upstream, request).await)
        })
    }
}

async fn pass_on(mut upstream: Channel, mut request: Request<Body>) -> Response<Body> {
    let method = request.uri().path().rsplit('/').next().unwrap_or_default();
    if !METHODS.contains(&method) {
        return Status::unimplemented("only aggregated discovery is served here").into_http();
    }
    // The channel names the control plane; what Envoy called the socket means nothing there.
    request.headers_mut().remove(http::header::HOST);
    let ready = std::future::poll_fn(|cx| upstream.poll_ready(cx)).await;
    let answered = match ready {
        Ok(()) => upstream.call(request).await,
        Err(error) => Err(error),
    };
    answered.unwrap_or_else(|error| {
        tracing::info!(error = %with_causes(&error), "control plane cannot be reached");
        Status::unavailable("the control plane cannot be reached").into_http()
    })
}

//! One call of gRPC's health service, for probes. Source: `grpc/health/v1/health.proto`, a stable protocol of two fields.

use lateen_envoy::with_causes;
use lateen_identity::grpc::Transport;
use prost::Message;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic::{Request, Status};

use crate::http_client::Target;

#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: i32 = 1;

/// Whether `service` serves. The caller bounds the time.
///
/// # Errors
/// Nobody answers, or not as the health service does.
pub(crate) async fn check(target: &Target, service: &str) -> Result<bool, Status> {
    let stream = target.connect().await;
    let stream = stream.map_err(|error| Status::unavailable(with_causes(&error)))?;
    // The connection is there already; the connector gives it away once.
    let mut once = Some(hyper_util::rt::TokioIo::new(Transport::Plain(
        stream,
        Default::default(),
    )));
    let connector = tower::service_fn(move |_| {
        let stream = once
            .take()
            .ok_or_else(|| std::io::Error::other("connection is gone"));
        std::future::ready(stream)
    });
    let endpoint = Endpoint::from_shared(format!("http://{}", target.address));
    let endpoint = endpoint.map_err(|error| Status::internal(error.to_string()))?;
    let channel = endpoint.connect_with_connector(connector).await;
    let channel = channel.map_err(|error| Status::unavailable(error.to_string()))?;
    let mut client = tonic::client::Grpc::new(channel);
    client
        .ready()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let request = Request::new(HealthCheckRequest {
        service: service.to_owned(),
    });
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = tonic_prost::ProstCodec::default();
    let answer = client
        .unary::<_, HealthCheckResponse, _>(request, path, codec)
        .await?;
    Ok(answer.into_inner().status == SERVING)
}

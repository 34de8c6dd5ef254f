//! Asking external authorizers about requests and connections. What their answers mean is `lateen_traffic::ext_authz`'s concern.

mod grpc;
mod http_service;

use std::rc::Rc;
use std::time::SystemTime;

use bytes::Bytes;
use lateen_traffic::ext_authz::{
    BodySettings, ExtAuthz, GrpcService, HeaderChoice, NetworkExtAuthz, RouteSettings, Service,
    Verdict,
};
use lateen_traffic::value::Metadata;
use lateen_traffic::{ConnectionInfo, PeerTls, RequestView};

use crate::upstream::call::{self, Call};
use crate::worker::{Now, Worker};

/// Bytes of an authorizer's answer, at most. Envoy holds an answer to its buffer limit, 1 MiB.
const MAX_ANSWER: usize = 1024 * 1024;

/// What an authorizer is told of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionSubject<'a> {
    /// Its addresses.
    pub(crate) connection: &'a ConnectionInfo<'a>,
    /// The peer's certificate.
    pub(crate) peer: &'a PeerTls<'a>,
    /// The proxy's own identity on it, if it is mutual TLS.
    pub(crate) own_principal: Option<&'a str>,
    /// What filters wrote so far.
    pub(crate) metadata: &'a Metadata,
}

/// What an authorizer is told of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestSubject<'a> {
    /// The request.
    pub(crate) view: &'a RequestView<'a>,
    /// Its number.
    pub(crate) id: u64,
    /// The version the client speaks.
    pub(crate) version: http::Version,
    /// Its body, as far as the authorizer gets it.
    pub(crate) body: Option<&'a SentBody>,
    /// Which of its headers are told.
    pub(crate) headers: &'a HeaderChoice,
    /// What the route says.
    pub(crate) route: Option<&'a RouteSettings>,
    /// When it came.
    pub(crate) time: SystemTime,
}

/// A body as far as an authorizer gets it.
#[derive(Clone, Debug)]
pub(crate) struct SentBody {
    /// The bytes.
    pub(crate) bytes: Bytes,
    /// Whether that is not all.
    pub(crate) partial: bool,
    /// How it is sent.
    pub(crate) settings: BodySettings,
}

/// Whose proxy asks, and with which configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    pub(crate) worker: &'a Worker,
    pub(crate) now: &'a Rc<Now>,
}

impl Asker<'_> {
    /// Asks about a request.
    pub(crate) async fn request(
        &self,
        settings: &ExtAuthz,
        connection: &ConnectionSubject<'_>,
        request: &RequestSubject<'_>,
    ) -> Verdict {
        match &settings.service {
            Service::Http(service) => {
                let Some(head) = http_service::head(service, request) else {
                    return Verdict::Failed;
                };
                let body = request.body.map(|body| body.bytes.clone());
                let call = Call {
                    cluster: &service.cluster,
                    head,
                    body: body.unwrap_or_default(),
                    timeout: Some(service.timeout),
                    max_answer: MAX_ANSWER,
                };
                match call::call(self.worker, self.now, &call).await {
                    Ok(answer) => {
                        let status = answer.head.status.as_u16();
                        service.verdict(status, &answer.head.headers, answer.body)
                    }
                    Err(error) => failed(&service.cluster, &error),
                }
            }
            Service::Grpc(service) => {
                let check = grpc::of_request(settings, connection, request);
                self.grpc(service, check).await
            }
        }
    }

    /// Asks about a connection.
    pub(crate) async fn connection(
        &self,
        settings: &NetworkExtAuthz,
        connection: &ConnectionSubject<'_>,
    ) -> Verdict {
        let check = grpc::of_connection(
            connection,
            &settings.metadata_namespaces,
            settings.include_tls_session,
        );
        self.grpc(&settings.service, check).await
    }

    async fn grpc(&self, service: &GrpcService, check: grpc::Check) -> Verdict {
        let call = Call {
            cluster: &service.cluster,
            head: grpc::head(service),
            body: grpc::frame(&check),
            timeout: service.timeout,
            max_answer: MAX_ANSWER,
        };
        match call::call(self.worker, self.now, &call).await {
            Ok(answer) => grpc::verdict(&answer).unwrap_or_else(|error| {
                tracing::debug!(cluster = %service.cluster, %error, "authorizer failed");
                Verdict::Failed
            }),
            Err(error) => failed(&service.cluster, &error),
        }
    }
}

/// Reads an answer and does nothing with it: for fuzzing.
pub(crate) fn read_grpc(answer: &call::Answer) {
    let _ = grpc::verdict(answer);
}

fn failed(cluster: &str, error: &call::CallError) -> Verdict {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    tracing::debug!(cluster, %error, cause, "authorizer cannot be asked");
    Verdict::Failed
}

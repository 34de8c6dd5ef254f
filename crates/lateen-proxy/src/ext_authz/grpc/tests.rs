//! Tests of gRPC authorizers: framing, and what answers mean.

use lateen_envoy::pb::google::rpc::Status;

use super::*;

fn answer(response: &auth::CheckResponse, grpc_status: &'static str) -> Answer {
    let framed = crate::export::framed(&response.encode_to_vec());
    let (head, ()) = http::Response::new(()).into_parts();
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(grpc_status));
    Answer {
        head,
        body: framed,
        trailers: Some(trailers),
    }
}

fn code(code: i32) -> Option<Status> {
    Some(Status {
        code,
        ..Default::default()
    })
}

#[test]
fn status_zero_allows_and_everything_else_denies() {
    let ok = auth::CheckResponse {
        status: code(0),
        ..Default::default()
    };
    assert!(matches!(
        verdict(&answer(&ok, "0")),
        Ok(Verdict::Allowed(_))
    ));
    let denied = auth::CheckResponse {
        status: code(7),
        ..Default::default()
    };
    let Ok(Verdict::Denied(denial)) = verdict(&answer(&denied, "0")) else {
        panic!("not denied")
    };
    assert_eq!((denial.status, denial.body.len()), (403, 0));
}

#[test]
fn what_is_no_answer_is_a_failure() {
    let ok = auth::CheckResponse::default();
    assert!(matches!(
        verdict(&answer(&ok, "14")),
        Err(AnswerError::Grpc(14))
    ));
    let mut short = answer(&ok, "0");
    short.body = Bytes::from_static(&[0, 0, 0, 0, 9]);
    assert!(matches!(verdict(&short), Err(AnswerError::Framing)));
    let mut compressed = answer(&ok, "0");
    compressed.body = Bytes::from_static(&[1, 0, 0, 0, 0]);
    assert!(matches!(verdict(&compressed), Err(AnswerError::Framing)));
    let mut refused = answer(&ok, "0");
    refused.head.status = StatusCode::BAD_GATEWAY;
    assert!(matches!(verdict(&refused), Err(AnswerError::Status(_))));
    let option = core::HeaderValueOption {
        header: Some(core::HeaderValue {
            key: "a b".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    assert!(
        change(&option, Reads::Append).is_err(),
        "a header that cannot be written is no allowance"
    );
}

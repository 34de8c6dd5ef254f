//! Errors with what caused them, for logs and for people.

use std::error::Error;

use tonic::Status;

/// An error and its causes in one line. What is in it already is not said again: errors of gRPC hold their causes' texts, and their causes too.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = own_text(error);
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = own_text(error);
        if !text.contains(&more) && !is_transport(error) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// A [`Status`] by itself also writes its cause, as a programmer would.
fn own_text(error: &(dyn Error + 'static)) -> String {
    let boxed = error.downcast_ref::<Box<Status>>().map(|status| &**status);
    match error.downcast_ref::<Status>().or(boxed) {
        Some(status) if status.message().is_empty() => format!("{:?}", status.code()),
        Some(status) => format!("{:?}: {}", status.code(), status.message()),
        None => error.to_string(),
    }
}

/// Whether all an error says is that a transport had one.
fn is_transport(error: &(dyn Error + 'static)) -> bool {
    error.is::<tonic::transport::Error>()
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("asking the authority")]
    struct Asking(#[source] Box<Status>);

    #[test]
    fn a_status_says_its_code_and_its_message_once() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let status = Status::from_error(Box::new(refused));
        let text = with_causes(&Asking(Box::new(status)));
        assert_eq!(text, "asking the authority: Unknown: connection refused");
        let bare = Asking(Box::new(Status::permission_denied("")));
        assert_eq!(with_causes(&bare), "asking the authority: PermissionDenied");
    }

    #[test]
    fn every_cause_is_named() {
        let inner = io::Error::new(io::ErrorKind::InvalidData, "byte 7 is not UTF-8");
        let outer = io::Error::other(Outer(inner));
        assert_eq!(
            with_causes(&outer),
            "reading the token: byte 7 is not UTF-8"
        );
    }

    #[derive(Debug, thiserror::Error)]
    #[error("reading the token")]
    struct Outer(#[source] io::Error);
}

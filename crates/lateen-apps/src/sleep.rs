//! `sleep infinity`, as the samples' clients run it: waits, and ends at once when told to (which `sleep` as the first
//! process of a container does not).

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::RunError;

pub(crate) async fn run(arguments: &[String], stop: CancellationToken) -> Result<u8, RunError> {
    let mut total = Some(Duration::ZERO);
    for argument in arguments {
        total = match (total, duration(argument)?) {
            (Some(total), Some(more)) => Some(total.saturating_add(more)),
            _ => None,
        };
    }
    if arguments.is_empty() {
        total = None;
    }
    match total {
        None => stop.cancelled().await,
        Some(total) => {
            let _ = tokio::time::timeout(total, stop.cancelled()).await;
        }
    }
    Ok(0)
}

/// A duration as `sleep` reads it; `None` is forever.
fn duration(text: &str) -> Result<Option<Duration>, RunError> {
    if matches!(text, "infinity" | "inf") {
        return Ok(None);
    }
    let wrong = || RunError::Usage(format!("`{text}` is not a time"));
    let (number, unit) = match text.char_indices().last() {
        Some((at, 's')) => (&text[..at], 1.0),
        Some((at, 'm')) => (&text[..at], 60.0),
        Some((at, 'h')) => (&text[..at], 3600.0),
        Some((at, 'd')) => (&text[..at], 86_400.0),
        _ => (text, 1.0),
    };
    let seconds: f64 = number.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(seconds * unit)
        .map(Some)
        .map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_sleep_reads_them() {
        assert_eq!(duration("infinity").unwrap(), None);
        assert_eq!(duration("0.5").unwrap(), Some(Duration::from_millis(500)));
        assert_eq!(duration("2m").unwrap(), Some(Duration::from_secs(120)));
        for wrong in ["", "x", "-1", "1e400", "nan"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}

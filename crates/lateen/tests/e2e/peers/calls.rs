//! What a gRPC client must be able to do, whatever is between it and its server. Each check gives what it saw.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

use super::grpc::{Client, text};

/// Runs every check against a server and gives their outcomes, `ok` for those that hold.
pub(crate) async fn all(url: &str) -> Value {
    let mut client = Client::new(url);
    let limit = Duration::from_secs(30);
    let checks = async {
        json!({
            "unary": outcome(unary(&mut client).await),
            "server streaming": outcome(server_streaming(&mut client).await),
            "client streaming": outcome(client_streaming(&mut client).await),
            "both ways": outcome(both_ways(&mut client).await),
            "deadline": outcome(deadline(&mut client).await),
            "error without a message": outcome(trailers_only(&mut client).await),
            "error after messages": outcome(error_after_messages(&mut client).await),
            "metadata": outcome(metadata(&mut client).await),
            "large messages": outcome(large(&mut client).await),
            "unknown method": outcome(unknown_method(&mut client).await),
            "cancellation": outcome(cancellation(&mut client).await),
            "keepalive": outcome(keepalive(url).await),
        })
    };
    let done = tokio::time::timeout(limit, checks).await;
    done.unwrap_or_else(|_| json!({"all": "not done in time"}))
}

/// The checks of a result that do not hold.
pub(crate) fn failures(result: &Value) -> Vec<String> {
    let checks = result.as_object().into_iter().flatten();
    checks
        .filter(|(_, outcome)| *outcome != "ok")
        .map(|(check, outcome)| format!("{check}: {outcome}"))
        .collect()
}

type Checked = Result<(), String>;

fn outcome(checked: Checked) -> String {
    checked.err().unwrap_or_else(|| "ok".to_owned())
}

fn told(status: Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

fn expect(holds: bool, seen: impl std::fmt::Debug) -> Checked {
    if holds {
        Ok(())
    } else {
        Err(format!("{seen:?}"))
    }
}

async fn unary(client: &mut Client) -> Checked {
    let said = client.say("hello").await.map_err(told)?;
    expect(said.ends_with(": hello"), said)
}

async fn server_streaming(client: &mut Client) -> Checked {
    let mut numbers = client.count("500").await.map_err(told)?;
    let mut seen = 0;
    while let Some(number) = numbers.message().await.map_err(told)? {
        seen += 1;
        expect(number.text == seen.to_string(), &number)?;
    }
    expect(seen == 500, seen)
}

async fn client_streaming(client: &mut Client) -> Checked {
    let words = (0..200).map(|n| text(n.to_string())).collect();
    let joined = client.join(words).await.map_err(told)?;
    expect(joined.split(' ').count() == 200, joined.len())
}

/// Each word is said after the one before has come back, so nothing on the way may wait for more.
async fn both_ways(client: &mut Client) -> Checked {
    let (sender, mut echoes) = client.echo().await.map_err(told)?;
    for turn in 0..50 {
        let word = text(format!("word {turn}"));
        let sent = sender.send(word.clone()).await;
        sent.map_err(|_| "the stream has ended".to_owned())?;
        let echo = echoes.message().await.map_err(told)?;
        expect(echo.as_ref() == Some(&word), &echo)?;
    }
    drop(sender);
    let end = echoes.message().await.map_err(told)?;
    expect(end.is_none(), end)
}

async fn deadline(client: &mut Client) -> Checked {
    let mut request = Request::new(text("20000"));
    request.set_timeout(Duration::from_millis(300));
    let began = Instant::now();
    let Err(status) = client.unary("Late", request).await else {
        return Err("there was an answer".to_owned());
    };
    let in_time = began.elapsed() < Duration::from_secs(5);
    // tonic's own timer says `Cancelled`, who is asked says `DeadlineExceeded`, a sidecar that was first says `Unavailable`.
    let code = status.code();
    let sidecar = code == Code::Unavailable && status.message() == "upstream request timeout";
    let expected = sidecar || [Code::DeadlineExceeded, Code::Cancelled].contains(&code);
    expect(in_time && expected, (code, began.elapsed()))
}

async fn trailers_only(client: &mut Client) -> Checked {
    let Err(status) = client.unary("Fail", Request::new(text("7"))).await else {
        return Err("there was an answer".to_owned());
    };
    let detail = status.metadata().get_bin("detail-bin");
    let detail = detail.and_then(|value| value.to_bytes().ok());
    let kept = detail.as_deref() == Some(&[0, 255, 7]);
    let same = status.code() == Code::PermissionDenied && status.message().ends_with("100% \u{e9}");
    expect(kept && same, told(status))
}

async fn error_after_messages(client: &mut Client) -> Checked {
    let mut numbers = client.count("5!").await.map_err(told)?;
    for _ in 0..5 {
        let number = numbers.message().await.map_err(told)?;
        expect(number.is_some(), &number)?;
    }
    match numbers.message().await {
        Err(status) => expect(status.code() == Code::Aborted, told(status)),
        Ok(more) => Err(format!("no error but {more:?}")),
    }
}

async fn metadata(client: &mut Client) -> Checked {
    let mut request = Request::new(text(""));
    let own = request.metadata_mut();
    own.insert("x-ascii", MetadataValue::from_static("some text"));
    own.insert_bin("x-binary-bin", MetadataValue::from_bytes(&[0, 1, 254]));
    let answer = client.unary("Meta", request).await.map_err(told)?;
    let back = answer.metadata();
    let ascii = back.get("x-ascii").is_some_and(|v| v == "some text");
    let binary = back.get_bin("x-binary-bin").and_then(|v| v.to_bytes().ok());
    expect(
        ascii && binary.as_deref() == Some(&[0, 1, 254]),
        format!("{back:?}"),
    )
}

async fn large(client: &mut Client) -> Checked {
    let word = "x".repeat(3 << 20);
    let said = client.say(&word).await.map_err(told)?;
    expect(said.len() > word.len(), said.len())
}

async fn unknown_method(client: &mut Client) -> Checked {
    match client.unary("NoSuchMethod", Request::new(text(""))).await {
        Err(status) => expect(status.code() == Code::Unimplemented, told(status)),
        Ok(_) => Err("there was an answer".to_owned()),
    }
}

/// The server hears that nobody waits any more, of a stream that is given up and of a call whose deadline has passed.
async fn cancellation(client: &mut Client) -> Checked {
    let mut watched = client.watch().await.map_err(told)?;
    let first = watched.message().await.map_err(told)?;
    expect(first.is_some(), &first)?;
    let watching = client.watching().await.map_err(told)?;
    expect(watching != "0", ("while it is watched", watching))?;
    drop(watched);
    let mut request = Request::new(text("20000"));
    request.set_timeout(Duration::from_millis(200));
    let late = client.unary("Late", request).await;
    expect(late.is_err(), late.is_ok())?;
    let began = Instant::now();
    loop {
        let watching = client.watching().await.map_err(told)?;
        if watching == "0" {
            return Ok(());
        }
        let patient = began.elapsed() < Duration::from_secs(5);
        expect(patient, ("after it was given up", watching))?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Pings are answered, and cost nobody the connection: not while there is no call, not during a stream on which nothing comes.
async fn keepalive(url: &str) -> Checked {
    const PAUSE: Duration = Duration::from_millis(1500);
    let mut client = Client::with_keepalive(url, Duration::from_millis(50));
    unary(&mut client).await?;
    tokio::time::sleep(PAUSE).await;
    let (sender, mut echoes) = client.echo().await.map_err(told)?;
    for _ in 0..2 {
        let sent = sender.send(text("still there")).await;
        sent.map_err(|_| "the stream has ended".to_owned())?;
        let echo = echoes.message().await.map_err(told)?;
        expect(echo.is_some(), &echo)?;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

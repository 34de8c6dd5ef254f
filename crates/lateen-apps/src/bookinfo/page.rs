//! The HTML of the product page.

use serde_json::Value;

pub(super) const TITLE: &str = "The Comedy of Errors";
pub(super) const DESCRIPTION: &str = concat!(
    "<a href=\"https://en.wikipedia.org/wiki/The_Comedy_of_Errors\">Wikipedia Summary</a>: ",
    "The Comedy of Errors is one of <b>William Shakespeare's</b> early plays. It is his shortest and one of his most ",
    "farcical comedies, with a major part of the humour coming from slapstick and mistaken identity, in addition to ",
    "puns and word play.",
);

const STYLE: &str = concat!(
    "body{font-family:system-ui,sans-serif;margin:0;color:#1f2937}",
    "nav{background:#1f2937;color:#fff;padding:1rem 2rem;display:flex;justify-content:space-between}",
    "nav a{color:#fff}main{max-width:70rem;margin:0 auto;padding:1rem 2rem}",
    "h1{text-align:center}section{margin-top:2rem}th{text-align:left;padding-right:2rem}",
    "blockquote{margin:1rem 0;padding-left:1rem;border-left:4px solid #d1d5db}",
    ".stars{font-size:1.3rem}.error{color:#b91c1c}",
);

/// The details in the order the page shows them: key and heading.
const DETAILS: [(&str, &str); 8] = [
    ("ISBN-10", "ISBN-10"),
    ("ISBN-13", "ISBN-13"),
    ("publisher", "Publisher"),
    ("pages", "Pages"),
    ("type", "Type"),
    ("language", "Language"),
    ("author", "Author"),
    ("year", "Year"),
];

/// The most stars that are drawn, whatever ratings says.
const MOST_STARS: u64 = 10;

/// The start page.
pub(super) fn index() -> String {
    layout(
        None,
        "<h1>Hello! This is a simple bookstore application</h1>\
         <p>It has four services: <b>productpage</b> asks <b>details</b> and <b>reviews</b>; \
         <b>reviews</b> asks <b>ratings</b>.</p>\
         <p><a href=\"/productpage?u=normal\">Normal user</a></p>\
         <p><a href=\"/productpage?u=test\">Test user</a></p>",
    )
}

/// The product page: both arguments are what the services said.
pub(super) fn product(user: Option<&str>, details: &Value, reviews: &Value) -> String {
    let mut body = format!("<h1>{TITLE}</h1><p>{DESCRIPTION}</p>");
    body.push_str("<section><h2>Book Details</h2>");
    body.push_str(&details_section(details));
    body.push_str("</section><section><h2>Book Reviews</h2>");
    body.push_str(&reviews_section(reviews));
    body.push_str("</section>");
    layout(user, &body)
}

fn layout(user: Option<&str>, body: &str) -> String {
    let session = match user {
        Some(user) => format!(
            "<span>{} (<a href=\"/logout\">sign out</a>)</span>",
            escaped(user)
        ),
        None => "<form method=\"post\" action=\"/login\">\
                 <input name=\"username\" placeholder=\"User Name\" required>\
                 <input name=\"passwd\" type=\"password\" placeholder=\"Password\">\
                 <button>Sign in</button></form>"
            .to_owned(),
    };
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>Simple Bookstore App</title><style>{STYLE}</style></head><body>\
         <nav><a href=\"/\">BookInfo Sample</a>{session}</nav><main>{body}</main></body></html>\n"
    )
}

fn details_section(details: &Value) -> String {
    if let Some(error) = details["error"].as_str() {
        return failure("details", error);
    }
    let mut table = String::from("<table>");
    for (key, heading) in DETAILS {
        let value = shown(&details[key]);
        table.push_str(&format!(
            "<tr><th>{heading}</th><td>{}</td></tr>",
            escaped(&value)
        ));
    }
    table.push_str("</table>");
    table
}

fn reviews_section(reviews: &Value) -> String {
    if let Some(error) = reviews["error"].as_str() {
        return failure("reviews", error);
    }
    let mut html = String::new();
    for review in reviews["reviews"].as_array().into_iter().flatten() {
        let text = escaped(&shown(&review["text"]));
        let reviewer = escaped(&shown(&review["reviewer"]));
        html.push_str(&format!(
            "<blockquote><p>{text}</p><small>{reviewer}</small>"
        ));
        html.push_str(&rating(&review["rating"]));
        html.push_str("</blockquote>");
    }
    let pod = escaped(&shown(&reviews["podname"]));
    let cluster = escaped(&shown(&reviews["clustername"]));
    html.push_str(&format!(
        "<p>Reviews served by:<br><u>{pod}</u> on cluster {cluster}</p>"
    ));
    html
}

fn rating(rating: &Value) -> String {
    if let Some(error) = rating["error"].as_str() {
        return format!("<p class=\"error\">{}</p>", escaped(error));
    }
    let Some(stars) = rating["stars"].as_u64() else {
        return String::new();
    };
    let color = escaped(rating["color"].as_str().unwrap_or("black"));
    let full = stars.min(MOST_STARS);
    let stars: String = (0..full.max(5))
        .map(|i| if i < full { '★' } else { '☆' })
        .collect();
    format!("<p class=\"stars\" style=\"color:{color}\">{stars}</p>")
}

fn failure(what: &str, error: &str) -> String {
    format!(
        "<h3 class=\"error\">Error fetching product {what}</h3><p>{}</p>",
        escaped(error)
    )
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// `text` for use in HTML text and quoted attributes.
fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            c => html.push(c),
        }
    }
    html
}

/// `text` with `%XX` replaced by the byte it stands for.
pub(crate) fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let digit = |at: usize| {
        bytes
            .get(at)
            .and_then(|byte| char::from(*byte).to_digit(16))
    };
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                decoded.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// `text` with everything but unreserved characters as `%XX`.
pub(super) fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(char::from(byte));
            }
            byte => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_services_and_people_say_is_shown_as_text() {
        let reviews = json!({
            "podname": "<script>",
            "reviews": [{ "reviewer": "a&b", "text": "<b>", "rating": { "stars": 2, "color": "red\"" } }],
        });
        let html = product(Some("<i>"), &json!({ "author": "<u>" }), &reviews);
        for unsafe_text in ["<script>", "a&b", "<i>", "\"red\"\"", "<td><u>"] {
            assert!(!html.contains(unsafe_text), "{unsafe_text}");
        }
        assert!(html.contains("★★☆☆☆"));
    }

    #[test]
    fn names_survive_the_cookie() {
        let name = "jason; ü=%41";
        assert_eq!(percent_decoded(&percent_encoded(name)), name);
    }
}

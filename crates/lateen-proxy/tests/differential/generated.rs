//! Rules of access that nobody would write, and requests for them: RBAC as generated, so that the engine's matching is held to Envoy's
//! where no author of cases has been.
//!
//! The same seed gives the same cases; `RBAC_SEED` takes another, `RBAC_LISTENERS` more of them.

use serde_json::{Value, json};

use super::case::File;

/// Rules to generate, and requests for each.
const LISTENERS: u64 = 24;
const REQUESTS: usize = 8;

/// The generated file, with the cases that contain the filter; none if there are none.
pub(crate) fn rbac(filter: &str) -> Option<File> {
    let number = |name: &str, otherwise: u64| {
        let text = std::env::var(name).ok();
        text.and_then(|text| text.parse().ok()).unwrap_or(otherwise)
    };
    let mut random = Random(number("RBAC_SEED", 7) | 1);
    let mut listeners = serde_json::Map::new();
    let mut cases = Vec::new();
    for index in 0..number("RBAC_LISTENERS", LISTENERS) {
        let name = format!("rules-{index}");
        listeners.insert(name.clone(), listener(&mut random));
        for request in 0..REQUESTS {
            cases.push(json!({
                "name": format!("{name}, request {request}"),
                "listener": name,
                "send": send(&mut random),
            }));
        }
    }
    let mut file: File = serde_json::from_value(json!({
        "listeners": listeners,
        "clusters": {"up": {"hosts": 1}},
        "cases": cases,
    }))
    .unwrap();
    file.name = "rbac-generated".to_owned();
    file.cases
        .retain(|case| format!("rbac-generated: {}", case.name).contains(filter));
    (!file.cases.is_empty()).then_some(file)
}

fn listener(random: &mut Random) -> Value {
    let policies: serde_json::Map<_, _> = (0..=random.below(3))
        .map(|index| {
            let permissions: Vec<Value> = (0..=random.below(2))
                .map(|_| permission(random, 0))
                .collect();
            let principals: Vec<Value> = (0..=random.below(2))
                .map(|_| principal(random, 0))
                .collect();
            let policy = json!({"permissions": permissions, "principals": principals});
            (format!("p{index}"), policy)
        })
        .collect();
    let action = *random.pick(&["ALLOW", "DENY"]);
    json!({
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "$up"}}],
        "http_filters": [{
            "name": "envoy.filters.http.rbac",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
                "rules": {"action": action, "policies": policies},
            },
        }],
    })
}

/// Levels of "all of", "one of" and "not".
const DEPTH: usize = 3;

fn permission(random: &mut Random, depth: usize) -> Value {
    match random.below(if depth < DEPTH { 7 } else { 4 }) {
        0 => json!({"any": true}),
        1 => json!({"header": header(random)}),
        2 => json!({"url_path": {"path": text(random, PATHS)}}),
        3 => json!({"destination_port_range": {"start": 1, "end": *random.pick(&[2, 65535])}}),
        4 => json!({"and_rules": {"rules": several(random, depth, permission)}}),
        5 => json!({"or_rules": {"rules": several(random, depth, permission)}}),
        _ => json!({"not_rule": permission(random, depth + 1)}),
    }
}

fn principal(random: &mut Random, depth: usize) -> Value {
    match random.below(if depth < DEPTH { 8 } else { 5 }) {
        0 => json!({"any": true}),
        1 => json!({"header": header(random)}),
        2 => json!({"url_path": {"path": text(random, PATHS)}}),
        3 => json!({"remote_ip": range(random)}),
        4 => json!({"direct_remote_ip": range(random)}),
        5 => json!({"and_ids": {"ids": several(random, depth, principal)}}),
        6 => json!({"or_ids": {"ids": several(random, depth, principal)}}),
        _ => json!({"not_id": principal(random, depth + 1)}),
    }
}

fn several(random: &mut Random, depth: usize, one: fn(&mut Random, usize) -> Value) -> Vec<Value> {
    (0..=random.below(3))
        .map(|_| one(random, depth + 1))
        .collect()
}

fn range(random: &mut Random) -> Value {
    let (address, length) = *random.pick(&[("127.0.0.0", 8), ("10.0.0.0", 8), ("0.0.0.0", 0)]);
    json!({"address_prefix": address, "prefix_len": length})
}

const PATHS: &[&str] = &["/a", "/a/b", "/", "/A", "/b.c", "b"];
const VALUES: &[&str] = &["gold", "g", "old", "GOLD", "go", "gold,silver"];
const HEADERS: &[&str] = &["x-tier", "x-other", ":method", ":authority"];

fn header(random: &mut Random) -> Value {
    let mut matcher = json!({"name": random.pick(HEADERS)});
    match random.below(3) {
        0 => matcher["present_match"] = json!(random.below(2) == 0),
        _ => matcher["string_match"] = text(random, VALUES),
    }
    matcher["invert_match"] = json!(random.below(4) == 0);
    matcher["treat_missing_header_as_empty"] = json!(random.below(5) == 0);
    matcher
}

fn text(random: &mut Random, values: &[&str]) -> Value {
    let value = *random.pick(values);
    let mut matcher = match random.below(5) {
        0 => json!({"prefix": value}),
        1 => json!({"suffix": value}),
        2 => json!({"contains": value}),
        3 => json!({"safe_regex": {"regex": format!(".*{}", value.replace('.', "\\."))}}),
        _ => json!({"exact": value}),
    };
    if matcher.get("safe_regex").is_none() && random.below(4) == 0 {
        matcher["ignore_case"] = json!(true);
    }
    matcher
}

fn send(random: &mut Random) -> Value {
    let mut headers = Vec::new();
    for name in ["x-tier", "x-other"] {
        for _ in 0..random.below(3) {
            headers.push(format!("{name}: {}", random.pick(VALUES)));
        }
    }
    json!({
        "method": random.pick(&["GET", "POST", "DELETE"]),
        "path": random.pick(&["/a", "/a/b", "/a?b", "/A", "/", "/b.c", "/bxc", "/a/../b"]),
        "host": random.pick(&["gold", "one.example", "GOLD"]),
        "headers": headers,
    })
}

/// xorshift64*: repeatable, and good enough to choose with.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % bound
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

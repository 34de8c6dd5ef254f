//! Buckets under a clock of the test's own.

use lateen_traffic::headers::HeaderMutations;
use lateen_traffic::matcher::Fraction;
use lateen_traffic::rate_limit::VirtualHostRules;

use super::*;

fn bucket(tokens: u32) -> TokenBucket {
    TokenBucket {
        max_tokens: tokens,
        tokens_per_fill: tokens,
        fill_interval: Duration::from_secs(10),
    }
}

fn limit(common: Option<u32>, descriptors: &[(&str, &str, u32)]) -> LocalRateLimit {
    LocalRateLimit {
        stat_prefix: "test".into(),
        bucket: common.map(bucket),
        status: 429,
        enabled: Fraction::NONE,
        enforced: Fraction::NONE,
        response_headers: HeaderMutations::default(),
        unenforced_request_headers: HeaderMutations::default(),
        per_connection: false,
        descriptors: descriptors
            .iter()
            .map(|(key, value, tokens)| LimitedDescriptor {
                entries: vec![((*key).into(), (*value).into())],
                bucket: bucket(*tokens),
                shadow: false,
            })
            .collect(),
        stage: 0,
        rules: Vec::new(),
        virtual_host_rules: VirtualHostRules::Override,
        always_take_common: true,
        tells_limits: false,
        tells_retry: false,
        resource_exhausted: false,
        max_dynamic: 2,
    }
}

fn asking(key: &str, value: &str) -> Vec<Descriptor> {
    vec![Descriptor {
        entries: vec![(key.into(), value.to_owned())],
        hits: 1,
    }]
}

#[tokio::test(start_paused = true)]
async fn a_bucket_is_emptied_and_filled_again() {
    let (limits, settings) = (RateLimits::default(), Arc::new(limit(Some(2), &[])));
    let take = || limits.take(&settings, &[]);
    assert_eq!(take().bucket.map(|state| state.remaining), Some(1));
    assert!(take().allowed);
    let refused = take();
    assert!(!refused.allowed);
    assert_eq!(
        refused.bucket.map(|state| (state.limit, state.remaining)),
        Some((2, 0))
    );
    tokio::time::advance(Duration::from_secs(9)).await;
    assert!(!take().allowed);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(take().allowed && take().allowed && !take().allowed);
}

#[tokio::test(start_paused = true)]
async fn a_descriptor_has_a_bucket_of_its_own_besides_the_common_one() {
    let limits = RateLimits::default();
    let settings = Arc::new(limit(Some(3), &[("user", "a", 1)]));
    assert!(limits.take(&settings, &asking("user", "a")).allowed);
    assert!(!limits.take(&settings, &asking("user", "a")).allowed);
    assert!(
        limits.take(&settings, &asking("user", "b")).allowed,
        "not limited by itself"
    );
    assert!(limits.take(&settings, &[]).allowed);
    assert!(
        !limits.take(&settings, &[]).allowed,
        "a's first request took a common token, too"
    );
    let apart = Arc::new(LocalRateLimit {
        always_take_common: false,
        ..limit(Some(1), &[("user", "a", 1)])
    });
    assert!(limits.take(&apart, &asking("user", "a")).allowed);
    assert!(limits.take(&apart, &[]).allowed);
}

#[tokio::test(start_paused = true)]
async fn each_value_has_its_own_bucket_and_their_number_is_bounded() {
    let limits = RateLimits::default();
    let settings = Arc::new(limit(None, &[("user", "", 1), ("user", "vip", 5)]));
    let take = |value: &str| limits.take(&settings, &asking("user", value)).allowed;
    assert!(take("a") && !take("a") && take("b") && !take("b"));
    for _ in 0..5 {
        assert!(take("vip"));
    }
    assert!(!take("vip"));
    assert!(take("c"), "a, not used for longest, makes room");
    assert!(!take("b"));
    assert!(take("a"), "forgotten, and so full again");
}

#[tokio::test(start_paused = true)]
async fn a_shadow_descriptor_never_refuses() {
    let limits = RateLimits::default();
    let mut settings = limit(None, &[("user", "a", 1)]);
    settings.descriptors[0].shadow = true;
    let settings = Arc::new(settings);
    for _ in 0..3 {
        assert!(limits.take(&settings, &asking("user", "a")).allowed);
    }
}

#[tokio::test(start_paused = true)]
async fn connections_share_a_bucket_by_key() {
    let rates = ConnectionRates::default();
    let limit = |key: &str| {
        Arc::new(ConnectionRateLimit {
            stat_prefix: "test".into(),
            bucket: bucket(1),
            share_key: key.into(),
        })
    };
    let (one, two, other) = (limit("k"), limit("k"), limit(""));
    assert!(
        rates.take(&one, true) && rates.take(&one, true),
        "looking takes nothing"
    );
    assert!(rates.take(&one, false) && !rates.take(&two, false));
    assert!(rates.take(&other, false) && !rates.take(&other, false));
}

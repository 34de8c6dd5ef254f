//! What is started and ended, case by case and to the end.

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_sources::plan::{Owner, PodRole};

use super::*;

fn plan(kind: &str, name: &str, version: u64, number: u8) -> PodPlan {
    PodPlan {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        owner: Owner {
            kind: kind.to_owned(),
            name: "web".to_owned(),
        },
        template_hash: version,
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        service_account: "default".to_owned(),
        ipv4: Ipv4Addr::new(10, 244, 2, number),
        ipv6: None,
        role: PodRole::Plain,
        settings: lateen_sources::plan::ProxySettings::default(),
        spec: Arc::default(),
    }
}

fn running(plan: &PodPlan, ready: bool) -> Existing {
    Existing {
        key: (plan.namespace.clone(), plan.name.clone()),
        owner: (plan.owner.kind.clone(), plan.owner.name.clone()),
        template_hash: plan.template_hash,
        ipv4: plan.ipv4,
        ready,
        terminating: false,
        succeeded: false,
    }
}

/// Deployment pods of a version, `web-VERSION-0` and on.
fn replicas(version: u8, count: u8) -> Vec<PodPlan> {
    let one = |n: u8| {
        plan(
            "Deployment",
            &format!("web-{version}-{n}"),
            version.into(),
            version * 20 + n,
        )
    };
    (0..count).map(one).collect()
}

/// Carries actions out as if everything started and ended at once; gives the fewest ready pods on the way.
fn settle(wanted: &[PodPlan], mut existing: Vec<Existing>) -> (Vec<Existing>, usize) {
    let mut fewest = usize::MAX;
    for _ in 0..100 {
        let actions = reconcile(wanted, &existing);
        if actions == Actions::default() {
            return (existing, fewest);
        }
        existing.retain(|pod| !actions.stop.contains(&pod.key));
        fewest = fewest.min(existing.iter().filter(|pod| pod.ready).count());
        existing.extend(actions.start.iter().map(|at| running(&wanted[*at], true)));
    }
    panic!("it does not settle: {existing:?}");
}

#[test]
fn a_new_deployment_starts_at_once() {
    let wanted = replicas(1, 3);
    assert_eq!(
        reconcile(&wanted, &[]),
        Actions {
            start: vec![0, 1, 2],
            stop: vec![]
        }
    );
}

#[test]
fn a_rollout_never_has_fewer_ready_pods_than_wanted() {
    for count in 1..=9 {
        let old: Vec<Existing> = replicas(1, count)
            .iter()
            .map(|p| running(p, true))
            .collect();
        let wanted = replicas(2, count);
        let (end, fewest) = settle(&wanted, old);
        assert!(fewest >= usize::from(count), "{count}: {fewest}");
        assert!(end.iter().all(|pod| pod.template_hash == 2) && end.len() == usize::from(count));
    }
}

#[test]
fn a_rollout_waits_for_new_pods_that_do_not_become_ready() {
    let wanted = replicas(2, 2);
    let mut existing: Vec<Existing> = replicas(1, 2).iter().map(|p| running(p, true)).collect();
    existing.push(running(&wanted[0], false));
    assert_eq!(reconcile(&wanted, &existing), Actions::default());
    existing[2].ready = true;
    let stop = vec![existing[0].key.clone()];
    assert_eq!(
        reconcile(&wanted, &existing),
        Actions {
            start: vec![],
            stop
        }
    );
}

#[test]
fn a_rollout_gives_up_old_pods_that_are_not_ready_first() {
    let wanted = replicas(2, 2);
    let mut existing: Vec<Existing> = replicas(1, 2).iter().map(|p| running(p, true)).collect();
    existing[1].ready = false;
    let actions = reconcile(&wanted, &existing);
    assert_eq!(
        actions,
        Actions {
            start: vec![0],
            stop: vec![existing[1].key.clone()]
        }
    );
}

#[test]
fn scaling_down_and_removing_end_what_is_not_wanted() {
    let existing: Vec<Existing> = replicas(1, 3).iter().map(|p| running(p, true)).collect();
    let wanted = replicas(1, 1);
    let stop = existing[1..].iter().map(|pod| pod.key.clone()).collect();
    assert_eq!(
        reconcile(&wanted, &existing),
        Actions {
            start: vec![],
            stop
        }
    );
    assert_eq!(reconcile(&[], &existing).stop.len(), 3);
}

#[test]
fn a_pod_that_keeps_its_name_is_ended_before_it_is_started_anew() {
    let old = running(&plan("DaemonSet", "agent", 1, 5), true);
    let wanted = [plan("DaemonSet", "agent", 2, 5)];
    let stop = vec![old.key.clone()];
    assert_eq!(
        reconcile(&wanted, std::slice::from_ref(&old)),
        Actions {
            start: vec![],
            stop
        }
    );
    let ending = Existing {
        terminating: true,
        ready: false,
        ..old
    };
    assert_eq!(reconcile(&wanted, &[ending]), Actions::default());
    assert_eq!(reconcile(&wanted, &[]).start, [0]);
}

#[test]
fn an_address_in_use_is_waited_for() {
    let old = Existing {
        terminating: true,
        ..running(&plan("Deployment", "old", 1, 7), false)
    };
    let wanted = [plan("Deployment", "new", 2, 7)];
    assert_eq!(reconcile(&wanted, &[old]), Actions::default());
}

#[test]
fn a_stateful_set_goes_up_from_the_first_and_anew_from_the_last() {
    let set = |version| -> Vec<PodPlan> {
        (0..3)
            .map(|n| plan("StatefulSet", &format!("db-{n}"), version, n))
            .collect()
    };
    let wanted = set(1);
    assert_eq!(reconcile(&wanted, &[]).start, [0]);
    let mut existing = vec![running(&wanted[0], false)];
    assert_eq!(reconcile(&wanted, &existing), Actions::default());
    existing[0].ready = true;
    assert_eq!(reconcile(&wanted, &existing).start, [1]);
    existing.extend([running(&wanted[1], true), running(&wanted[2], true)]);
    let newer = set(2);
    assert_eq!(reconcile(&newer, &existing).stop, [existing[2].key.clone()]);
    existing.pop();
    assert_eq!(
        reconcile(&newer, &existing),
        Actions {
            start: vec![2],
            stop: vec![]
        }
    );
    existing.push(running(&newer[2], false));
    assert_eq!(
        reconcile(&newer, &existing),
        Actions::default(),
        "the new one is not ready yet"
    );
    existing[2].ready = true;
    assert_eq!(reconcile(&newer, &existing).stop, [existing[1].key.clone()]);
}

#[test]
fn a_job_that_succeeded_is_not_run_again() {
    let wanted = [plan("Job", "once", 1, 1)];
    let done = Existing {
        succeeded: true,
        ..running(&wanted[0], false)
    };
    assert_eq!(reconcile(&wanted, &[done]), Actions::default());
}

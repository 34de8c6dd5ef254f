//! Which of many policies can match at all, told without looking at the others.
//!
//! Each policy is filed under a *gate*: texts, addresses or ports of which one has to be there for the policy to match. A connection or
//! request is asked for what it has, and only what is filed under that is evaluated, by the one evaluation there is. So a gate
//! only has to be necessary: that it lets too much through (case is folded, hashes may collide) costs time and nothing else.
//! A policy without any such necessity is always evaluated.
//!
//! Nothing here allocates while deciding.

mod gate;
mod probe;

use std::collections::HashMap;
use std::ops::Range;

use foldhash::fast::FixedState;

use self::gate::{Gate, Key};
use self::probe::Probe;
use super::{Policy, Subject};

/// Fewer policies than this are looked through faster than anything is looked up.
const WORTH_IT: usize = 4;

/// Policies by what they need.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// What cannot be told in advance, in order.
    always: Box<[u32]>,
    /// What is asked of a connection or request, one for each attribute that any gate looks at.
    probes: Box<[Probe]>,
    /// Where in `lists` the policies are that are filed under a hash.
    table: HashMap<u64, Range<u32>, FixedState>,
    /// Policies, in order within each range.
    lists: Box<[u32]>,
}

/// The first policy that matches so far.
struct Search<'a> {
    policies: &'a [Policy],
    subject: &'a Subject<'a>,
    first: Option<usize>,
}

impl Index {
    /// Files policies.
    pub(super) fn new(policies: &[Policy]) -> Self {
        if policies.len() < WORTH_IT {
            return Self {
                always: (0..).take(policies.len()).collect(),
                ..Self::default()
            };
        }
        Self::of(policies)
    }

    fn of(policies: &[Policy]) -> Self {
        let gates: Vec<Vec<Gate>> = policies.iter().map(gate::of_policy).collect();
        let shared = frequencies(&gates);
        let mut always = Vec::new();
        let mut probes: Vec<Probe> = Vec::new();
        let mut filed: Vec<(u64, u32)> = Vec::new();
        for (policy, gates) in (0..).zip(&gates) {
            let cost = |gate: &&Gate| {
                let shared = gate.keys.iter().map(|key| shared[key]).max();
                (shared.unwrap_or(0), gate.rank)
            };
            let Some(gate) = gates.iter().min_by_key(cost) else {
                always.push(policy);
                continue;
            };
            for key in &gate.keys {
                filed.push((Probe::file(&mut probes, key), policy));
            }
        }
        // By hash, and in the policies' order below each.
        filed.sort_unstable();
        filed.dedup();
        let (table, lists) = tabulate(&filed);
        Self {
            always: always.into(),
            probes: probes.into(),
            table,
            lists,
        }
    }

    /// The first of the policies that matches, if one does. They are those the index was made of.
    pub(super) fn first_match(&self, policies: &[Policy], subject: &Subject<'_>) -> Option<usize> {
        let mut search = Search {
            policies,
            subject,
            first: None,
        };
        search.look(&self.always);
        for probe in &self.probes {
            probe.ask(subject, &mut |hash| {
                if let Some(range) = self.table.get(&hash) {
                    search.look(&self.lists[range.start as usize..range.end as usize]);
                }
            });
        }
        search.first
    }
}

impl Search<'_> {
    /// Evaluates policies that come before the first known match.
    fn look(&mut self, list: &[u32]) {
        for index in list.iter().map(|index| *index as usize) {
            if self.first.is_some_and(|first| first <= index) {
                return;
            }
            if self.policies[index].matches(self.subject) {
                self.first = Some(index);
                return;
            }
        }
    }
}

/// How many policies could be filed under each key.
fn frequencies(gates: &[Vec<Gate>]) -> HashMap<&Key, usize> {
    let mut counts = HashMap::new();
    for key in gates.iter().flatten().flat_map(|gate| &gate.keys) {
        *counts.entry(key).or_insert(0) += 1;
    }
    counts
}

/// Sorted pairs as ranges of a list.
fn tabulate(filed: &[(u64, u32)]) -> (HashMap<u64, Range<u32>, FixedState>, Box<[u32]>) {
    let mut table: HashMap<u64, Range<u32>, FixedState> = HashMap::default();
    for (at, (hash, _)) in (0..).zip(filed) {
        table.entry(*hash).or_insert(at..at).end = at + 1;
    }
    (table, filed.iter().map(|(_, policy)| *policy).collect())
}

#[cfg(test)]
mod tests;

//! Pods' names, as Kubernetes' controllers form them.

use super::workloads::{Naming, Workload};

/// The letters Kubernetes uses in generated names: no vowels, so that no words appear, and nothing easily confused.
const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// `length` letters that follow from a number.
pub(crate) fn safe(mut number: u64, length: usize) -> String {
    let base = LETTERS.len() as u64;
    std::iter::repeat_with(|| {
        let letter = LETTERS[usize::try_from(number % base).unwrap_or(0)];
        // Golden-ratio multiplication spreads what is left over, so that few bits still fill many letters.
        number = (number / base).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number.rotate_right(17);
        char::from(letter)
    })
    .take(length)
    .collect()
}

/// The name of a workload's pod.
pub(crate) fn pod(workload: &Workload<'_>, template_hash: u64, index: u32) -> String {
    let name = &workload.owner.name;
    let suffix = || {
        safe(
            super::hash(&(workload.namespace, name, template_hash, index)),
            5,
        )
    };
    match workload.naming {
        Naming::Own => name.clone(),
        Naming::Hashed => format!("{name}-{}-{}", safe(template_hash, 10), suffix()),
        Naming::Suffixed => format!("{name}-{}", suffix()),
        Naming::Ordinal(first) => format!("{name}-{}", first + index),
    }
}

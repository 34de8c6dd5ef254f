//! What one SDS stream has asked for and been told, in either variant of the protocol.

use std::collections::{BTreeMap, BTreeSet};

use lateen_envoy::TypeUrl;
use lateen_envoy::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};

use super::{Source, Variant};

/// Names remembered of one stream: a data plane asks for its own two, and for those of files in its configuration.
const MAX_NAMES: usize = 64;

/// A stream that says with each request all it wants, and is told all of it each time.
#[derive(Debug, Default)]
pub(super) struct SotwState {
    names: BTreeSet<String>,
    nonce: u64,
    /// The versions of what was sent last, by name.
    sent: BTreeMap<String, String>,
}

impl Variant for SotwState {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn on_request(&mut self, request: DiscoveryRequest) -> bool {
        // An answer to an earlier response crossed with a later one; what it asks for has been overtaken.
        if !request.response_nonce.is_empty() && request.response_nonce != self.nonce.to_string() {
            return false;
        }
        if let Some(error) = request.error_detail {
            tracing::warn!(error = %error.message, "data plane refused a secret");
        }
        self.names = request.resource_names.into_iter().take(MAX_NAMES).collect();
        // Who drops a name and asks for it again has to be told again.
        self.sent.retain(|name, _| self.names.contains(name));
        true
    }

    fn respond(&mut self, source: &mut Source) -> Option<DiscoveryResponse> {
        source.follow(self.names.iter());
        let found: Vec<_> = self
            .names
            .iter()
            .filter_map(|name| source.secret(name))
            .collect();
        let versions: BTreeMap<_, _> = found
            .iter()
            .map(|one| (one.name.to_string(), one.version_string()))
            .collect();
        if found.is_empty() || versions == self.sent {
            return None;
        }
        self.nonce += 1;
        let version_info = versions.values().cloned().collect::<Vec<_>>().join("-");
        self.sent = versions;
        Some(DiscoveryResponse {
            version_info,
            resources: found.into_iter().map(|one| (*one.body).clone()).collect(),
            type_url: TypeUrl::Secret.as_str().to_owned(),
            nonce: self.nonce.to_string(),
            ..DiscoveryResponse::default()
        })
    }
}

/// A stream that says what it wants more or no more, and is told what changed.
#[derive(Debug, Default)]
pub(super) struct DeltaState {
    /// What is wanted, with the version the other side has, if it has one.
    names: BTreeMap<String, Option<String>>,
    nonce: u64,
}

impl Variant for DeltaState {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn on_request(&mut self, request: DeltaDiscoveryRequest) -> bool {
        if let Some(error) = request.error_detail {
            tracing::warn!(error = %error.message, "data plane refused a secret");
        }
        for name in &request.resource_names_unsubscribe {
            self.names.remove(name);
        }
        for name in request.resource_names_subscribe {
            if self.names.len() < MAX_NAMES || self.names.contains_key(&name) {
                // Asking again for what one has means one has lost it.
                self.names.insert(name, None);
            }
        }
        for (name, known) in &mut self.names {
            if let Some(version) = request.initial_resource_versions.get(name) {
                *known = Some(version.clone());
            }
        }
        true
    }

    fn respond(&mut self, source: &mut Source) -> Option<DeltaDiscoveryResponse> {
        source.follow(self.names.keys());
        let mut resources = Vec::new();
        for (name, known) in &mut self.names {
            let Some(found) = source.secret(name) else {
                continue;
            };
            let version = found.version_string();
            if known.as_ref() == Some(&version) {
                continue;
            }
            resources.push(Resource {
                name: name.clone(),
                version: version.clone(),
                resource: Some((*found.body).clone()),
                ..Resource::default()
            });
            *known = Some(version);
        }
        if resources.is_empty() {
            return None;
        }
        self.nonce += 1;
        Some(DeltaDiscoveryResponse {
            system_version_info: self.nonce.to_string(),
            resources,
            type_url: TypeUrl::Secret.as_str().to_owned(),
            nonce: self.nonce.to_string(),
            ..DeltaDiscoveryResponse::default()
        })
    }
}

#[cfg(test)]
mod tests;

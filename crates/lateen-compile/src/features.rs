//! Switches of istiod that change what is generated: Istio's environment variables, with Istio's defaults.
//!
//! The control plane reads the environment, never this crate: it gets them as part of [`Settings`](crate::Settings).

/// What is switched on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Features {
    /// `ENABLE_TLS_ON_SIDECAR_INGRESS`: a Sidecar's ingress listener ends TLS itself where mutual TLS is switched off.
    pub sidecar_ingress_tls: bool,
    /// `PILOT_ENABLE_HEADLESS_FILTER_CHAIN_LISTENER`: a headless service gets one listener whose filter chains match its
    /// pods' addresses, in place of one listener for each address.
    pub headless_filter_chains: bool,
    /// `PILOT_JWT_ENABLE_REMOTE_JWKS`: who fetches the keys at a `jwksUri`.
    pub jwks_fetch: JwksFetch,
}

/// Who fetches the keys of token issuers. Source: Istio, `pkg/jwt`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JwksFetch {
    /// The control plane.
    #[default]
    Istiod,
    /// Proxies, from services of the mesh; the control plane from elsewhere.
    Hybrid,
    /// Proxies.
    Envoy,
}

impl Features {
    /// The names of the variables.
    pub const VARIABLES: [&str; 3] = [
        "ENABLE_TLS_ON_SIDECAR_INGRESS",
        "PILOT_JWT_ENABLE_REMOTE_JWKS",
        "PILOT_ENABLE_HEADLESS_FILTER_CHAIN_LISTENER",
    ];

    /// Sets one by its variable, as Go reads truth values. False if there is no such variable, or the value is none.
    pub fn set(&mut self, variable: &str, value: &str) -> bool {
        let switch = match variable {
            "ENABLE_TLS_ON_SIDECAR_INGRESS" => &mut self.sidecar_ingress_tls,
            "PILOT_ENABLE_HEADLESS_FILTER_CHAIN_LISTENER" => &mut self.headless_filter_chains,
            "PILOT_JWT_ENABLE_REMOTE_JWKS" => return self.set_jwks_fetch(value),
            _ => return false,
        };
        match value {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => *switch = true,
            "0" | "f" | "F" | "false" | "FALSE" | "False" => *switch = false,
            _ => return false,
        }
        true
    }

    fn set_jwks_fetch(&mut self, value: &str) -> bool {
        self.jwks_fetch = match value {
            "false" | "istiod" => JwksFetch::Istiod,
            "true" | "hybrid" => JwksFetch::Hybrid,
            "envoy" => JwksFetch::Envoy,
            _ => return false,
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_set_by_its_variable_and_nothing_else() {
        let mut features = Features::default();
        assert!(features.set("ENABLE_TLS_ON_SIDECAR_INGRESS", "true"));
        assert!(features.sidecar_ingress_tls);
        assert!(!features.set("ENABLE_TLS_ON_SIDECAR_INGRESS", "maybe"));
        assert!(!features.set("SOMETHING_ELSE", "true"));
        for name in Features::VARIABLES {
            assert!(features.set(name, "false"), "{name}");
        }
        assert_eq!(features, Features::default());
    }
}

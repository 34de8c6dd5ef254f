//! Changes to headers that routes ask for, and the authority's canonical form.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::format::{Format, Values};

/// What a route, virtual host, weighted cluster or route configuration does to headers.
#[derive(Clone, Debug, Default)]
pub struct HeaderMutations {
    /// Headers that are taken away, first.
    pub remove: Vec<HeaderName>,
    /// Headers that are set then.
    pub add: Vec<HeaderAdd>,
}

/// One header that is set.
#[derive(Clone, Debug)]
pub struct HeaderAdd {
    /// Its name.
    pub name: HeaderName,
    /// Its value.
    pub value: Format,
    /// What happens if it is there already.
    pub action: AppendAction,
    /// It is set even if its value is empty.
    pub keep_empty: bool,
}

/// `HeaderValueOption.HeaderAppendAction`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AppendAction {
    /// The value is added as another one.
    #[default]
    AppendIfExistsOrAdd,
    /// Nothing, if it is there.
    AddIfAbsent,
    /// The value replaces what is there.
    OverwriteIfExistsOrAdd,
    /// The value replaces what is there; nothing, if it is not there.
    OverwriteIfExists,
}

/// Host rewriting in the HTTP connection manager, before routing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StripPort {
    /// The port stays.
    #[default]
    Never,
    /// The port goes if it is the listener's.
    Matching,
    /// The port goes.
    Any,
}

impl HeaderMutations {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }

    /// Applies the changes. A value that is not a valid header value is left out, as it could carry another header.
    pub fn apply(&self, headers: &mut HeaderMap, values: &dyn Values) {
        for name in &self.remove {
            headers.remove(name);
        }
        for add in &self.add {
            add.apply(headers, values);
        }
    }
}

impl HeaderAdd {
    fn apply(&self, headers: &mut HeaderMap, values: &dyn Values) {
        let exists = headers.contains_key(&self.name);
        let skip = match self.action {
            AppendAction::AddIfAbsent => exists,
            AppendAction::OverwriteIfExists => !exists,
            AppendAction::AppendIfExistsOrAdd | AppendAction::OverwriteIfExistsOrAdd => false,
        };
        if skip {
            return;
        }
        let text = self.value.render(values);
        if text.is_empty() && !self.keep_empty {
            return;
        }
        let Ok(value) = HeaderValue::from_str(&text) else {
            return;
        };
        if self.action == AppendAction::AppendIfExistsOrAdd {
            headers.append(self.name.clone(), value);
        } else {
            headers.insert(self.name.clone(), value);
        }
    }
}

/// A host without its port. An IPv6 address keeps its brackets.
pub fn without_port(host: &str) -> &str {
    let Some((name, port)) = host.rsplit_once(':') else {
        return host;
    };
    let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    // An IPv6 address without brackets has colons of its own.
    let is_name = !name.contains(':') || name.ends_with(']');
    if is_port && is_name { name } else { host }
}

/// The authority as routing is to see it (`strip_matching_host_port`, `strip_any_host_port`, `strip_trailing_host_dot`).
pub fn normalize_authority(
    authority: &str,
    strip: StripPort,
    listener_port: u16,
    strip_dot: bool,
) -> std::borrow::Cow<'_, str> {
    if strip == StripPort::Never && !strip_dot {
        return authority.into();
    }
    let bare = without_port(authority);
    let port = &authority[bare.len()..];
    let strip_port = match strip {
        StripPort::Never => false,
        StripPort::Any => true,
        StripPort::Matching => port
            .get(1..)
            .is_some_and(|port| port.parse() == Ok(listener_port)),
    };
    let undotted = if strip_dot {
        bare.strip_suffix('.').unwrap_or(bare)
    } else {
        bare
    };
    match (strip_port, undotted.len() == bare.len()) {
        (true, _) => undotted.into(),
        (false, true) => authority.into(),
        (false, false) => format!("{undotted}{port}").into(),
    }
}

#[cfg(test)]
mod tests;

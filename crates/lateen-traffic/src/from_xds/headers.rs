//! Changes to headers, and formats.

use http::HeaderName;
use lateen_envoy::pb::envoy::config::common::mutation_rules::v3 as rules;
use lateen_envoy::pb::envoy::config::core::v3 as core;

use super::XdsError;
use super::basic::flag;
use super::error::Within as _;
use crate::access_log::LogFormat;
use crate::format::Format;
use crate::headers::{AppendAction, HeaderAdd, HeaderMutations};

/// A header name.
pub(super) fn name(text: &str) -> Result<HeaderName, XdsError> {
    HeaderName::from_bytes(text.as_bytes())
        .map_err(|_| XdsError::new(format!("{text:?} is no header name")))
}

/// A header name, unless it is empty.
pub(super) fn optional_name(text: &str, field: &str) -> Result<Option<HeaderName>, XdsError> {
    if text.is_empty() {
        Ok(None)
    } else {
        name(text).within(field).map(Some)
    }
}

/// A format.
pub(super) fn format(text: &str) -> Result<Format, XdsError> {
    Format::parse(text).map_err(|error| XdsError::from_error(&error))
}

/// Headers to add and remove. `prefix` is `request_headers` or `response_headers`, for errors.
pub(super) fn mutations(
    add: &[core::HeaderValueOption],
    remove: &[String],
    prefix: &str,
) -> Result<HeaderMutations, XdsError> {
    let add = add
        .iter()
        .enumerate()
        .map(|(index, option)| added(option).at(&format!("{prefix}_to_add"), index));
    let remove = remove
        .iter()
        .enumerate()
        .map(|(index, text)| modifiable(text).at(&format!("{prefix}_to_remove"), index));
    Ok(HeaderMutations {
        add: add.collect::<Result<_, _>>()?,
        remove: remove.collect::<Result<_, _>>()?,
    })
}

/// Mutations in the form of `HeaderMutation` lists.
pub(super) fn mutation_list(
    list: &[rules::HeaderMutation],
    field: &str,
) -> Result<HeaderMutations, XdsError> {
    use rules::header_mutation::Action;
    let mut out = HeaderMutations::default();
    for (index, mutation) in list.iter().enumerate() {
        match mutation.action.as_ref() {
            Some(Action::Remove(text)) => out.remove.push(modifiable(text).at(field, index)?),
            Some(Action::Append(option)) => out.add.push(added(option).at(field, index)?),
            Some(Action::RemoveOnMatch(_)) => {
                return Err(XdsError::new("remove_on_match is not supported")).at(field, index);
            }
            None => return Err(XdsError::new("the mutation does nothing")).at(field, index),
        }
    }
    Ok(out)
}

fn added(option: &core::HeaderValueOption) -> Result<HeaderAdd, XdsError> {
    use core::header_value_option::HeaderAppendAction as Action;
    let header = option
        .header
        .as_ref()
        .ok_or_else(|| XdsError::new("the header is missing").within("header"))?;
    let text = if header.value.is_empty() {
        String::from_utf8_lossy(&header.raw_value)
    } else {
        header.value.as_str().into()
    };
    #[expect(
        deprecated,
        reason = "older control planes say `append` rather than `append_action`"
    )]
    let overwrite = option.append.is_some() && !flag(option.append.as_ref(), true);
    let action = match option.append_action() {
        Action::AppendIfExistsOrAdd if overwrite => AppendAction::OverwriteIfExistsOrAdd,
        Action::AppendIfExistsOrAdd => AppendAction::AppendIfExistsOrAdd,
        Action::AddIfAbsent => AppendAction::AddIfAbsent,
        Action::OverwriteIfExistsOrAdd => AppendAction::OverwriteIfExistsOrAdd,
        Action::OverwriteIfExists => AppendAction::OverwriteIfExists,
    };
    Ok(HeaderAdd {
        name: modifiable(&header.key).within("header.key")?,
        value: format(&text).within("header.value")?,
        action,
        keep_empty: option.keep_empty_value,
    })
}

/// Envoy does not let routes change pseudo-headers and the host this way, as routing has been done by then.
fn modifiable(text: &str) -> Result<HeaderName, XdsError> {
    if text.starts_with(':') || text.eq_ignore_ascii_case("host") {
        return Err(XdsError::new(format!(
            "the header {text:?} may not be modified"
        )));
    }
    name(text)
}

/// A log format or body format.
pub(super) fn log_format(format: &core::SubstitutionFormatString) -> Result<LogFormat, XdsError> {
    use core::data_source::Specifier;
    use core::substitution_format_string::Format as Form;
    match format.format.as_ref() {
        #[expect(deprecated, reason = "Istio still writes `text_format` in places")]
        Some(Form::TextFormat(text)) => Ok(LogFormat::Text(text.as_str().into())),
        Some(Form::JsonFormat(fields)) => Ok(LogFormat::Json(super::basic::object(fields))),
        Some(Form::TextFormatSource(source)) => match source.specifier.as_ref() {
            Some(Specifier::InlineString(text)) => Ok(LogFormat::Text(text.as_str().into())),
            Some(Specifier::InlineBytes(bytes)) => {
                Ok(LogFormat::Text(String::from_utf8_lossy(bytes).into()))
            }
            _ => {
                Err(XdsError::new("only inline formats are supported").within("text_format_source"))
            }
        },
        None => Err(XdsError::new("the format is missing")),
    }
}

/// The text of a format as a compiled one, for values in the filter state.
pub(super) fn text_format(
    format_string: &core::SubstitutionFormatString,
) -> Result<Format, XdsError> {
    match log_format(format_string)? {
        LogFormat::Text(text) => format(&text),
        LogFormat::Json(_) | LogFormat::Default => {
            Err(XdsError::new("only text formats are supported here"))
        }
    }
}

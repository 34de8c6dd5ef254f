//! Which command line stands for an image: the user's own rules first, then the built-in stand-ins.

use anyhow::{Context, Result};
use lateen_local::images::{ImageRule, Images};

/// The table for a mesh.
pub(crate) fn table(own: &[String]) -> Result<Images> {
    let mut images = Images::with_fallback(stand_in).with_programs(program);
    // Prepending reverses, so the last given is put in first and the first one wins.
    for rule in own.iter().rev() {
        images
            .prepend(rule)
            .with_context(|| format!("--image {rule}"))?;
    }
    Ok(images)
}

fn stand_in(image: &str) -> Option<ImageRule> {
    let known = lateen_apps::images::find(image)?;
    let mut argv: Vec<String> = ["/proc/self/exe", "app", known.application]
        .map(str::to_owned)
        .into();
    argv.extend(known.arguments);
    Some(ImageRule {
        pattern: image.to_owned(),
        argv,
        default_args: known.command,
        env: known.environment.into_iter().collect(),
    })
}

/// The stand-in for a program, for a machine without it.
pub(crate) fn program(name: &str) -> Option<Vec<String>> {
    let known = lateen_apps::images::find_program(name)?;
    let mut argv: Vec<String> = ["/proc/self/exe", "app", known.application]
        .map(str::to_owned)
        .into();
    argv.extend(known.arguments);
    Some(argv)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_rule_wins_over_a_built_in_stand_in() {
        let images = table(&["*/go-httpbin:*=./mine --port 1".to_owned()]).expect("a table");
        let own = images
            .find("docker.io/mccutchen/go-httpbin:v2")
            .expect("found");
        assert_eq!(own.argv, ["./mine", "--port", "1"]);
        let built_in = images
            .find("docker.io/istio/examples-bookinfo-reviews-v2:1.20.2")
            .expect("found");
        assert_eq!(
            built_in.argv[..3],
            ["/proc/self/exe", "app", "bookinfo-reviews"]
        );
        assert!(images.find("example.com/unknown:1").is_none());
    }

    #[test]
    fn a_rule_that_is_none_is_named() {
        let error = table(&["nonsense".to_owned()]).expect_err("refused");
        assert!(format!("{error:#}").contains("--image nonsense"));
    }
}

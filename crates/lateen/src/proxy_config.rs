//! What `lateen proxy-config` shows of a proxy: Envoy's admin output as istioctl's tables. Pure functions from JSON to rows;
//! where the JSON comes from is the command's business.

pub(crate) mod cluster;
pub(crate) mod dump;
pub(crate) mod listener;
pub(crate) mod route;
pub(crate) mod secret;

/// What to show, from the flags. A filter that is not set admits everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    pub(crate) name: Option<String>,
    pub(crate) address: Option<String>,
    pub(crate) port: Option<u64>,
    pub(crate) kind: Option<String>,
    pub(crate) fqdn: Option<String>,
    pub(crate) direction: Option<String>,
    pub(crate) subset: Option<String>,
    pub(crate) cluster: Option<String>,
    pub(crate) status: Option<String>,
}

/// A header and the rows below it.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Rows {
    pub(crate) fn new(header: &[&'static str]) -> Self {
        Self {
            header: header.to_vec(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(crate) fn table(&self) -> crate::table::Table {
        crate::table::Table::from_parts(&self.header, self.rows.clone())
    }

    #[cfg(test)]
    pub(crate) fn cells(&self) -> &[Vec<String>] {
        &self.rows
    }
}

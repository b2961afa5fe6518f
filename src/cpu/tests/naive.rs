//! Textbook loops in double precision.

/// Textbook normalisation in f64, from which statistic and which weight every element belongs to.
pub(in crate::cpu) struct Naive {
    pub stat: Vec<usize>,
    pub channel: Vec<usize>,
    pub eps: f64,
    pub centred: bool,
    pub weight: Vec<f64>,
    pub bias: Vec<f64>,
}

fn sums(of: &[usize], values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut sums = vec![0.0; of.iter().max().unwrap() + 1];
    of.iter().zip(values).for_each(|(&i, v)| sums[i] += v);
    sums
}

impl Naive {
    pub fn counts(&self) -> Vec<f64> {
        sums(&self.stat, self.stat.iter().map(|_| 1.0))
    }

    pub fn stats(&self, x: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let by = |v: Vec<f64>| v.iter().zip(self.counts()).map(|(s, n)| s / n).collect::<Vec<_>>();
        let mut mean = by(sums(&self.stat, x.iter().copied()));
        if !self.centred {
            mean.fill(0.0);
        }
        let var = by(sums(&self.stat, x.iter().zip(&self.stat).map(|(x, &s)| (x - mean[s]).powi(2))));
        (mean, var)
    }

    pub fn xhat(&self, x: &[f64], (mean, var): &(Vec<f64>, Vec<f64>)) -> Vec<f64> {
        x.iter().zip(&self.stat).map(|(x, &s)| (x - mean[s]) / (var[s] + self.eps).sqrt()).collect()
    }

    pub fn affine(&self, xhat: &[f64]) -> Vec<f64> {
        xhat.iter().zip(&self.channel).map(|(x, &c)| x * self.weight[c] + self.bias[c]).collect()
    }

    /// dx, dweight, dbias.
    pub fn backward(&self, xhat: &[f64], var: &[f64], g: &[f64], project: bool) -> [Vec<f64>; 3] {
        let dbias = sums(&self.channel, g.iter().copied());
        let dweight = sums(&self.channel, g.iter().zip(xhat).map(|(g, x)| g * x));
        let gw: Vec<f64> = g.iter().zip(&self.channel).map(|(g, &c)| g * self.weight[c]).collect();
        let s1 = sums(&self.stat, gw.iter().copied());
        let s2 = sums(&self.stat, gw.iter().zip(xhat).map(|(g, x)| g * x));
        let n = self.counts();
        let dx = gw.iter().zip(xhat).zip(&self.stat).map(|((g, x), &s)| {
            let s1 = if self.centred { s1[s] } else { 0.0 };
            let taken = if project { (s1 + x * s2[s]) / n[s] } else { 0.0 };
            (g - taken) / (var[s] + self.eps).sqrt()
        });
        [dx.collect(), dweight, dbias]
    }
}

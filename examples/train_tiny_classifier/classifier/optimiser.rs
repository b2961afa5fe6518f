//! Adam (Kingma and Ba, 2015).

const BETAS: (f32, f32) = (0.9, 0.999);
const EPS: f32 = 1e-8;

pub struct Adam {
    learning_rate: f32,
    step: i32,
    /// Running mean of each parameter's gradient and of its square.
    moments: Vec<Vec<(f32, f32)>>,
}

impl Adam {
    pub fn new(learning_rate: f32) -> Adam {
        Adam { learning_rate, step: 0, moments: Vec::new() }
    }

    /// One step on (parameter, gradient) pairs, the same ones in the same order each time.
    pub fn step<const N: usize>(&mut self, parameters: [(&mut [f32], &[f32]); N]) {
        self.step += 1;
        if self.moments.is_empty() {
            self.moments = parameters.iter().map(|(p, _)| vec![(0.0, 0.0); p.len()]).collect();
        }
        let correction = (1.0 - BETAS.0.powi(self.step), 1.0 - BETAS.1.powi(self.step));
        for ((parameter, gradient), moments) in parameters.into_iter().zip(&mut self.moments) {
            for ((p, g), (m, v)) in parameter.iter_mut().zip(gradient).zip(moments) {
                *m += (1.0 - BETAS.0) * (g - *m);
                *v += (1.0 - BETAS.1) * (g * g - *v);
                *p -= self.learning_rate * (*m / correction.0) / ((*v / correction.1).sqrt() + EPS);
            }
        }
    }
}

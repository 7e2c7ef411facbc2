"""The selective scan: one signature, several back ends, all held to one float64 definition.

    h_t = exp(Δ_t A) ∘ h_{t-1} + (Δ_t x_t) ⊗ B_t        h in R^{E×N}
    y_t = h_t C_t + D ∘ x_t, then y_t ∘ SiLU(z_t) where a gate z is given

Sizes: B batch, L length, E d_inner, N d_state. Channel-last everywhere: `(B, L, E)` and `(B, L, N)`.
Source: Gu and Dao, arXiv:2312.00752, Algorithm 2 (B discretised by the simplified Euler rule of the released code).
"""

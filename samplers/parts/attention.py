"""Knowledge-guided cross-modal attention (Xu et al., ACM MM 2022, eqs. 1-7), for `mmrns`. Registers nothing.

A vector z(rho, e) for an entity e and each of its modalities, seen through a relation rho; eq. 7 is the same for structure.
With I and T the projected image and text tokens of e, M = I T' their affinity and G a gate of the relation:

    eq. 1   I = phi(V W_i + b_i), T = phi(U W_t + b_t), phi = LeakyReLU
    eq. 5   G_i = sigmoid(rho W + b), G_t likewise, as large as M
    eq. 3   text-guided image, free of the relation      A1 = softmax over I's tokens (M') I
    eq. 4   relation-guided image                        A2 = (M . G_i)' I
            relation-guided text                         A3 = (M . G_t) T
            image-guided text, free of the relation      A4 = softmax over T's tokens (M) T
    eq. 6   E_i = LN(A1) + LN(A2), E_t = LN(A3) + LN(A4);   z = flatten(E) W_o + b_o   (the paper lacks this step)

Both halves are one formula, where a modality `m` is read by its partner `p` and M has p's tokens as rows: softmax(M) X_m and
(M . G) X_m. So three modalities need nothing new (partners side by side), and one alone is its own partner
(docs/notes/mmrns.md 4.3). A padded token is read by nobody and reads nothing.

Pooled features [N, F] become POOLED_TOKENS learned tokens. One token would be the letter of the paper, but the layer norm
cancels its gate (docs/notes/mmrns.md 4.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsbench.kernels.operators import rows

SLOPE = 0.1  # of LeakyReLU, as released
POOLED_TOKENS = 4  # learned tokens of a pooled modality
NEVER = -1e9  # added to a logit: probability 0 in float32, and no infinity to make nan of


@dataclass(eq=False)
class Tokens:
    """One modality of n entities."""

    x: Tensor  # [n, T, a]
    valid: Tensor | None = None  # bool [n, T], False: padding; None: no padding

    def at(self, place: Tensor) -> Tokens:
        """Those of the entities at places [n]."""
        x = rows(self.x.flatten(1), place).view(-1, *self.x.shape[1:])
        return Tokens(x, None if self.valid is None else self.valid.index_select(0, place))

    def unpadded(self, x: Tensor) -> Tensor:
        """x [n, T, ...] with zeros at padding."""
        return x if self.valid is None else x * self.valid.view(*self.valid.shape, *[1] * (x.dim() - 2))


class CrossModalAttention(nn.Module):
    """Pairs and grids of (relation, entity) -> modality -> vectors of width `out`.

    `shapes` gives each modality's feature shape, (F,) or (T, F). attend=False is z = flatten(X_m) W_o + b_o; gated=False is
    G = 1.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        relation_width: int,
        width: int = 50,
        out: int = 50,
        *,
        pooled_tokens: int = POOLED_TOKENS,
        attend: bool = True,
        gated: bool = True,
    ) -> None:
        super().__init__()
        self.width, self.attend, self.gated = width, attend, gated
        self.names = sorted(shapes)
        self.count = {m: shape[0] if len(shape) == 2 else pooled_tokens for m, shape in shapes.items()}  # T
        self.partners = {m: [p for p in self.names if p != m] or [m] for m in self.names}
        self.project, self.gate, self.out = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for m, shape in shapes.items():
            self.project[m] = nn.Linear(shape[-1], width if len(shape) == 2 else pooled_tokens * width)
            rows = sum(self.count[p] for p in self.partners[m]) if attend else self.count[m]
            self.out[m] = nn.Linear(rows * width, out)
            for p in self.partners[m] if attend and gated else []:
                self.gate[f"{m}|{p}"] = nn.Linear(relation_width, self.count[p] * self.count[m])
        self.norm = nn.LayerNorm(width)  # one for all branches, as released
        for x in self.parameters():
            if x.dim() == 2:
                nn.init.xavier_normal_(x)

    def tokens(self, m: str, features: Tensor, present: Tensor, valid: Tensor | None = None) -> Tokens:
        """Eq. 1 for features [n, F] or [n, T, F] of modality m, as if they were 0 where present [n] is False."""
        linear = self.project[m]
        assert isinstance(linear, nn.Linear)
        features = torch.where(present.view(-1, *[1] * (features.dim() - 1)), features, 0.0)  # not even nan may matter
        x = F.leaky_relu(F.linear(features, linear.weight) + linear.bias, SLOPE)
        return Tokens(x.view(len(x), self.count[m], self.width), valid)

    def pairs(self, tokens: Mapping[str, Tokens], r: Tensor, bare: str | None = None) -> dict[str, Tensor]:
        """m -> [n, out] for entity i seen through relation i, r [n, Dr]: the equations as they stand.

        `bare` names a modality whose relation-free branch is not layer-normalised (nsbench.samplers.parts.mmrns_released).
        """
        if not self.attend:
            return self._plain(tokens)
        z: dict[str, Tensor] = {}
        for m in self.names:
            read = []
            for p in self.partners[m]:
                affinity, free = self._free(tokens, m, p)
                guided = self.norm((affinity * self._gate(m, p, r)) @ tokens[m].x)
                read.append(tokens[p].unpadded(guided + (free if m == bare else self.norm(free))))
            z[m] = self.out[m](torch.cat(read, dim=1).flatten(1))
        return z

    def grid(self, tokens: Mapping[str, Tokens], r: Tensor) -> dict[str, Tensor]:
        """m -> [n, Q, out]: each of n entities seen through each relation r [Q, Dr].

        The same values as `pairs`, by an algebra that never builds [n, Q, T, a] (notes/mmrns.md 4.4c). With Y the tokens
        less their mean over a, and P_i the rows of W_o that row i of E meets,
            LN((M . G)_i X) P_i = sum_j M_ij G_ij / std_i (Y_j . gamma) P_i + beta P_i
            std_i^2 = sum_jk (M_ij M_ik (Y Y')_jk / a) (G_ij G_ik) + eps
        The relation is in G alone, so std is one matrix product and (Y_j . gamma) P_i one table for all relations.
        """
        if not self.attend:
            return {m: z.unsqueeze(1).expand(-1, len(r), -1) for m, z in self._plain(tokens).items()}
        gamma, beta = self.norm.weight, self.norm.bias
        z: dict[str, Tensor] = {}
        for m in self.names:
            linear, counts = self.out[m], [self.count[p] for p in self.partners[m]]
            assert isinstance(linear, nn.Linear)
            blocks = linear.weight.view(-1, sum(counts), self.width).permute(1, 2, 0).split(counts)  # P [T_p, a, out] each
            y = tokens[m].x - tokens[m].x.mean(2, keepdim=True)
            gram = y @ y.transpose(1, 2) / self.width  # [n, T_m, T_m]
            seen: Tensor = linear.bias
            for p, block in zip(self.partners[m], blocks):
                affinity, free = self._free(tokens, m, p)
                gate = self._gate(m, p, r)
                of_entity = (_squares(affinity) * gram.flatten(1).unsqueeze(1)).transpose(0, 1)  # [T_p, n, T_m T_m]
                variance = of_entity @ _squares(gate).permute(1, 2, 0)  # [T_p, n, Q]
                scale = tokens[p].unpadded((variance.clamp_min(0) + self.norm.eps).rsqrt().permute(1, 0, 2)).transpose(1, 2)
                weight = affinity.unsqueeze(1) * gate * scale.unsqueeze(3)  # [n, Q, T_p, T_m]
                table = torch.einsum("nja,iao->nijo", y * gamma, block).flatten(1, 2)  # [n, T_p T_m, out]
                rest = torch.einsum("nia,iao->no", tokens[p].unpadded(self.norm(free) + beta), block)
                seen = seen + rest.unsqueeze(1) + weight.flatten(2) @ table
            z[m] = seen
        return z

    def _plain(self, tokens: Mapping[str, Tokens]) -> dict[str, Tensor]:
        return {m: self.out[m](tokens[m].unpadded(tokens[m].x).flatten(1)) for m in self.names}

    def _free(self, tokens: Mapping[str, Tokens], m: str, p: str) -> tuple[Tensor, Tensor]:
        """The affinity [n, T_p, T_m], zero where m is padded, and softmax(affinity) X_m [n, T_p, a] (eqs. 2 and 3)."""
        x, valid = tokens[m].x, tokens[m].valid
        affinity = tokens[p].x @ x.transpose(1, 2)
        if valid is None:
            return affinity, affinity.softmax(2) @ x
        padded = ~valid.unsqueeze(1)
        return affinity.masked_fill(padded, 0), affinity.masked_fill(padded, NEVER).softmax(2) @ x

    def _gate(self, m: str, p: str, r: Tensor) -> Tensor:
        """Eq. 5: [len(r), T_p, T_m]."""
        shape = (len(r), self.count[p], self.count[m])
        return self.gate[f"{m}|{p}"](r).sigmoid().view(shape) if self.gated else r.new_ones(shape)


class Structure(nn.Module):
    """Eq. 7: e . sigmoid([rho; e] W + b) for the model's own vectors; relation_width 0 leaves rho out."""

    def __init__(self, entity_width: int, relation_width: int, hidden: int = 0) -> None:
        super().__init__()
        self.relation_width = relation_width
        self.first = nn.Linear(relation_width + entity_width, hidden or entity_width)
        nn.init.xavier_normal_(self.first.weight)

    def forward(self, e: Tensor, r: Tensor) -> Tensor:
        """[..., D] of e [..., D] and r [..., Dr], broadcast: the layer meets each of them once, not each pair."""
        with_r, with_e = self.first.weight.split([self.relation_width, e.shape[-1]], dim=1)
        x = F.linear(e, with_e, self.first.bias)
        x = x + (F.linear(r, with_r) if self.relation_width else torch.zeros_like(r[..., :1]))
        return e * self.logits(x).sigmoid()

    def logits(self, x: Tensor) -> Tensor:
        """Of the first layer's output."""
        return x


def _squares(x: Tensor) -> Tensor:
    """All products of two entries of a row: [..., T] -> [..., T T]."""
    return (x.unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2)

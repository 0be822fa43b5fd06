"""Models that earlier versions saved, with what they predicted: every version must agree."""

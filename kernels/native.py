"""placeholder"""
from glimp_engine.kernels.reference import ReferenceOps

class NativeOps(ReferenceOps):
    name = "native"

"""The reference problem: will a flight out of New York arrive 30 or more minutes late?"""
